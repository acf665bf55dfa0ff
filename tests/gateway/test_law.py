"""The step law is learnt from reports alone: speeds that nobody told, outliers, cold engines."""

from dataclasses import replace
from math import inf
from random import Random

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.capacity import Mix, StepLaw
from backends.fleet import DecodeMoments, Load, Replica
from backends.hardware import profile
from backends.sglang import parse_loads
from backends.simulated.core import EngineCore
from backends.simulated.reports import loads
from backends.simulated.sequences import EngineLimits, Sequence
from backends.slo import Targets
from gateway.law import TRUSTED_RUNNING, LiveLaw
from gateway.law_fit import Fit, window
from gateway.routing.prospects import slots

MODEL = "llama2-70b"
KNOWN = profile(MODEL, "mi355x").law
EPOCH = 1.7e9


def replica(name: str = "a", hardware: str = "mi355x") -> Replica:
    return Replica(name, MODEL, f"http://{name}", hardware=hardware)


def drive(live: LiveLaw, of: Replica, law: StepLaw, *, per_s: float, seconds: float) -> None:
    """Let an engine with this law serve for a while, and report once a second."""
    core, dice = EngineCore(law, EngineLimits(2048, 4096, 1_300_000)), Random(1)
    next_call, next_report, t = 0.0, 1.0, 0.0
    while t < seconds:
        t = min(next_call, next_report, core.next_at or next_call)
        if t == next_call:
            core.admit(Sequence(dice.randint(40, 220), dice.randint(20, 110)), t)
            next_call += dice.expovariate(per_s)
        core.step(t)
        if t == next_report:
            report = orjson.dumps(loads(core, EPOCH + t, frozenset({"core"})))
            load = parse_loads(report, EPOCH + t)
            assert load is not None
            live.report(of, load)
            next_report += 1.0


@pytest.mark.parametrize(("scale", "per_s"), [(1.0, 60.0), (0.05, 4.0), (0.016, 1.2)])
def test_a_speed_that_nobody_told_is_learnt(scale: float, per_s: float) -> None:
    live, law = LiveLaw(), KNOWN.scaled(scale)
    drive(live, replica(), law, per_s=per_s, seconds=15)
    found = live.speed(replica()).law
    for running, kv in ((8, 1_000), (24, 4_000)):
        assert found.step_s(running, 0, kv) == pytest.approx(law.step_s(running, 0, kv), rel=0.12)


def test_replicas_of_one_kind_may_differ() -> None:
    live = LiveLaw()
    fast, slow = replica("fast"), replica("slow")
    drive(live, fast, KNOWN.scaled(0.05), per_s=4, seconds=15)
    drive(live, slow, KNOWN.scaled(0.016), per_s=1.2, seconds=15)
    ratio = live.speed(slow).law.c_tok_s / live.speed(fast).law.c_tok_s
    assert ratio == pytest.approx(0.05 / 0.016, rel=0.2)


def test_a_new_replica_starts_with_what_its_kind_has_shown() -> None:
    live = LiveLaw()
    drive(live, replica("old"), KNOWN.scaled(0.05), per_s=4, seconds=15)
    born = live.speed(replica("new"))
    assert born.law.c_tok_s == pytest.approx(live.speed(replica("old")).law.c_tok_s, rel=0.1)
    assert born.at == 0.0
    assert live.speed(replica("other", "mi325x")).law == profile(MODEL, "mi325x").law


def test_unknown_hardware_starts_as_the_best_known() -> None:
    assert LiveLaw().speed(replica("x", "cpu")).law == KNOWN


def test_the_law_is_trusted_no_farther_than_it_was_seen() -> None:
    live = LiveLaw()
    assert live.speed(replica()).trusted_running == TRUSTED_RUNNING
    drive(live, replica(), KNOWN, per_s=100, seconds=10)
    assert live.speed(replica()).trusted_running > 2 * TRUSTED_RUNNING


def test_a_law_that_was_seen_at_several_loads_is_doubted_little_beyond_them() -> None:
    live = LiveLaw()
    assert live.speed(replica()).doubt == inf
    drive(live, replica(), KNOWN, per_s=20, seconds=20)
    seen = live.speed(replica())
    assert 1.0 < seen.doubt < 2.0
    mix, targets = Mix(294, 294), Targets(ttft_s=0.45, tpot_s=0.04)
    trusted = replace(seen, doubt=inf)
    assert slots(trusted, mix, targets, most_running=2048) == int(seen.trusted_running)
    more = slots(seen, mix, targets, most_running=2048)
    sure = slots(replace(seen, doubt=1.0), mix, targets, most_running=2048)
    assert seen.trusted_running < more < sure


def test_windows_that_were_all_alike_leave_the_law_in_doubt() -> None:
    fit = Fit(KNOWN)
    for _ in range(30):
        fit.observe(0.0106, 3e-5)
    alike = fit.doubt
    for index in range(30):
        fit.observe(0.0105 + 1e-4 * index, 1e-4 * index)
    assert fit.doubt < 2.0 < 10.0 < alike


def load(at: float, steps: float, t_us: float, batch: float = 16.0, running: int = 16) -> Load:
    """A report of so many decode steps of the same batch so far, without prefill."""
    moments = DecodeMoments(
        steps, steps * batch, t_us, steps * batch**2, batch * t_us, steps * batch
    )
    return Load(EPOCH + at, EPOCH + at, running, 0, used_tokens=4_000, decode=moments)


def test_the_first_steps_of_an_engine_teach_nothing() -> None:
    assert window(load(0, 10, 5e6), load(1, 60, 6e6), shared=True) is None
    assert window(load(0, 100, 5e6), load(1, 160, 6e6), shared=True) is not None


def test_a_restart_between_two_reports_teaches_nothing() -> None:
    assert window(load(0, 1000, 20e6), load(1, 70, 1e6), shared=True) is None


def test_reports_too_near_or_too_far_teach_nothing() -> None:
    assert window(load(0, 100, 1e6), load(0.1, 200, 2e6), shared=True) is None
    assert window(load(0, 100, 1e6), load(60, 200, 2e6), shared=True) is None


def test_one_outlier_moves_little_and_a_lasting_change_is_followed() -> None:
    fit = Fit(KNOWN)
    work_s = fit.work_s(200, 0, 100_000)
    for _ in range(30):
        fit.observe(KNOWN.step_s(200, 0, 100_000), work_s)
    before = fit.law.step_s(200, 0, 100_000)
    fit.observe(50 * before, work_s)
    assert fit.law.step_s(200, 0, 100_000) < 1.3 * before
    for _ in range(12):
        fit.observe(2 * before, work_s)
    assert fit.law.step_s(200, 0, 100_000) == pytest.approx(2 * before, rel=0.05)


@given(st.lists(st.tuples(st.floats(1e-6, 1e3), st.floats(0, 1e3)), max_size=40))
def test_constants_stay_positive_and_bounded_whatever_is_reported(
    observations: list[tuple[float, float]],
) -> None:
    fit = Fit(KNOWN)
    for step_s, work_s in observations:
        fit.observe(step_s, work_s)
    law = fit.law
    assert KNOWN.c0_s / 31 <= law.c0_s <= KNOWN.c0_s * 31
    assert 0 < law.c_tok_s < 1.0
    assert 0 < law.c_kv_s < 1.0


def test_an_engine_without_reports_is_learnt_from_calls() -> None:
    live, of = LiveLaw(), replica()
    for _ in range(200):
        live.timed(of, 0.1, running=4, kv_tokens=1_000, now=EPOCH)
    assert live.speed(of).law.step_s(4, 0, 1_000) == pytest.approx(0.1, rel=0.1)
