"""The fluid and the request level tell the same story."""

from collections.abc import Sequence
from dataclasses import replace as changed

import numpy as np
import pytest

from autoscale.baselines import StaticPeak
from autoscale.demand import TICK_S, from_arrivals
from autoscale.fluid import World
from autoscale.fluid import replay as fluid
from autoscale.replay.keeping import Keeping
from autoscale.replay.kind import Kind, chunk_within
from autoscale.replay.world import replay
from autoscale.traces import Arrival
from backends.capacity import Mix, StepLaw
from backends.hardware import profile
from backends.slo import MLPERF_CLASSES, Class, WhenLate


def _kind(promised: Sequence[Class] = MLPERF_CLASSES) -> Kind:
    base = profile("llama2-70b", "mi355x")
    law = StepLaw(base.law.c0_s, base.law.c_tok_s * 8, base.law.c_kv_s * 8)
    return Kind(base, {c.name: c for c in promised}, law, Mix(200.0, 150.0))


def _arrivals(kind: Kind, *, units: float, seconds: float) -> list[Arrival]:
    """Poisson arrivals that need so many units on average."""
    rng = np.random.default_rng(4)
    per_call = kind.law.c_tok_s * 350 + kind.law.c_kv_s * 150 * 275
    rate = units * kind.share("interactive") / per_call
    at = np.cumsum(rng.exponential(1.0 / rate, size=int(rate * seconds)))
    return [Arrival(float(t), 200, 150, tenant=f"t{i % 3}") for i, t in enumerate(at)]


@pytest.mark.parametrize(("units", "there"), [(3.0, 4), (5.0, 4)])
def test_the_fluid_and_the_request_level_agree(units: float, there: int) -> None:
    kind = _kind()
    arrivals = _arrivals(kind, units=units, seconds=240.0)
    calls = replay(arrivals, kind, StaticPeak(there), units=there)
    series = from_arrivals(arrivals, kind.law)
    demand = series.scaled(1.0 / (kind.share("interactive") * TICK_S))
    work = fluid(demand, StaticPeak(there), World())
    assert sum(calls.work_by_tick) == pytest.approx(float(demand.total_s.sum()), rel=0.05)
    tally = calls.classes["interactive"]
    assert tally.offered == len(arrivals)
    assert tally.attainment == pytest.approx(work.attainment, abs=0.08)


def test_a_scale_in_drops_no_call() -> None:
    kind = _kind()
    arrivals = _arrivals(kind, units=2.0, seconds=200.0)

    class Falling:
        left = 8

        def decide(self, view: object, row: object) -> int:
            self.left = max(3, self.left - 1)
            return self.left

    found = replay(arrivals, kind, Falling(), units=8)
    tally = found.classes["interactive"]
    assert found.dropped == 0
    assert tally.offered == len(arrivals)
    assert tally.attainment > 0.95


@pytest.mark.parametrize("when_late", [*WhenLate])
def test_late_calls_are_refused_or_served_as_their_class_says(when_late: WhenLate) -> None:
    """One unit of work too much for a minute: who cannot be in time waits for what is left."""
    soft = changed(MLPERF_CLASSES[0], when_late=when_late, patience_s=600.0)
    kind = _kind((soft, *MLPERF_CLASSES[1:]))
    busy = _arrivals(kind, units=4.0, seconds=60.0)
    found = replay(busy, kind, StaticPeak(2), units=2)
    tally = found.classes["interactive"]
    assert (found.dropped, tally.offered) == (0, len(busy))
    assert set(found.classes) == {"interactive"}  # held against what was promised
    assert tally.kept > 0.4 * tally.offered
    if when_late is WhenLate.SERVE:
        assert tally.refused == 0
        assert 0 < tally.late <= tally.offered - tally.kept
        assert tally.tokens == 150 * len(busy)
    else:
        assert tally.late == 0
        assert tally.refused > 0.2 * tally.offered


def test_a_late_call_is_refused_once_its_patience_ends() -> None:
    soft = changed(MLPERF_CLASSES[0], when_late=WhenLate.SERVE, patience_s=2.0)
    kind = _kind((soft, *MLPERF_CLASSES[1:]))
    busy = _arrivals(kind, units=6.0, seconds=60.0)
    tally = replay(busy, kind, StaticPeak(1), units=1).classes["interactive"]
    assert tally.late > 0
    assert tally.refused > 0
    assert tally.late + tally.refused + tally.kept <= tally.offered


def test_what_goes_first_is_not_counted_on_by_those_that_follow() -> None:
    kind = _kind()
    keeping = Keeping(kind)
    keeping.ask("interactive", 8.0, 1.0)
    keeping.ask("offline", 80.0, 1.0)
    asked = {name: keeping.asked_before(each, 1.0) for name, each in kind.classes.items()}
    # 8 s of work over a memory of 8 s
    assert asked == {"interactive": 0.0, "server": 1.0, "offline": 1.0}


def test_a_step_full_of_prompts_stays_within_the_permitted_step() -> None:
    kind = profile("llama2-70b", "mi355x")
    classes = {each.name: each.targets("llama2-70b") for each in MLPERF_CLASSES}
    chunks = {name: chunk_within(kind.law, each, most=4096) for name, each in classes.items()}
    assert chunks == {"interactive": 767, "server": 4096, "offline": 4096}
    assert kind.law.step_s(0.0, 767.0, 0.0) <= 0.85 * 0.04 < kind.law.step_s(0.0, 769.0, 0.0)
