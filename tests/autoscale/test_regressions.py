"""One test for each failure of other autoscalers that ours must not have."""

import pytest

from autoscale.actuate.unit import UnitState
from autoscale.allocate import Backlog, Claim, deferrable_units, granted
from autoscale.capacity import Slowness, learned
from autoscale.config import BadConfig, parse
from autoscale.observe import Arrived, SignalReader, row_of, standing, view_of
from autoscale.plan import Guard, Memory, plan
from autoscale.policy import Policy
from backends.fleet import DecodeMoments, Health, HealthState, Load, Pool, Replica, Standing
from backends.hardware import profile
from backends.signals import Counters, Gauges, Signal, decode, encode
from tests.autoscale.making import forecast, unit, view


def _pool(**states: HealthState) -> Pool:
    return Pool(
        "m",
        tuple(
            Standing(Replica(name, "m", f"http://{name}"), Health(state))
            for name, state in states.items()
        ),
    )


def _signal(at: float, offered: int, **changes: int) -> Signal:
    counters = Counters(offered=offered, offered_work_s=float(offered), **changes)
    return Signal("g", at, 0.0, {("m", "server", "t"): counters})


def test_missing_signals_are_known_to_be_missing_and_nothing_is_chosen_at_random() -> None:
    """Row 9: a policy became random, in silence, where a metric was missing."""
    arrived, blind = SignalReader().take([], 100.0)
    assert blind
    assert not arrived
    done, _ = plan(view(5, blind=True), forecast(0.0), Policy(), Memory(excess=1e9), now=0.0)
    assert (done.target, done.guard) == (5, Guard.BLIND)


def test_a_name_that_does_not_fit_fails_loudly() -> None:
    """Row 10: a metric's label suffix did not match, and scaling was off without a word."""
    with pytest.raises(BadConfig, match="modle"):
        parse({"pools": [{"modle": "m", "model": "m"}]})
    assert decode(b'{"version": 1, "gateway": "g"}') is None
    _, blind = SignalReader().take([], 0.0)  # what cannot be read is missing, not zero
    assert blind


def test_one_bad_replica_blinds_and_stops_nobody() -> None:
    """Row 11: an autoscaler was stuck on one replica without metrics."""
    pool = _pool(a=HealthState.READY, b=HealthState.READY, c=HealthState.EJECTED)
    units = [unit(name, served_at=1.0) for name in "abc"]
    stand = standing(units, pool, now=100.0, cold_start_s=60.0)
    assert [u.name for u in stand.stuck] == ["c"]
    seen = view_of(
        stand, Arrived(), 2.6, {"server": 1.0}, now=0.0, blind=False, cold_start_s=60.0,
        last_call_at=0.0,
    )  # fmt: skip
    memory = Memory(shortage=1e6)
    done, _ = plan(seen, forecast(2.6), Policy(), memory, now=0.0)
    assert done.start == 1  # replaced


def test_a_warming_replica_teaches_nothing() -> None:
    """Row 12: samples of cold replicas poisoned the capacity's fit."""
    law = profile("llama2-70b", "mi355x").law

    def load(at: float, steps: float, t_us: float) -> Load:
        moments = DecodeMoments(steps, 500.0 * steps, t_us, 0.0, 0.0, 0.0)
        return Load(at, at, 500, 0, used_tokens=200_000, decode=moments)

    before, slow = load(0.0, 0.0, 0.0), load(10.0, 100.0, 100 * 300_000.0)
    assert learned(Slowness(), law, before, slow, serving_s=10.0) == Slowness()
    taught = learned(Slowness(), law, before, slow, serving_s=600.0)
    assert 1.0 < taught.factor <= 4.0


@pytest.mark.parametrize("level", [3.0 + step / 20 for step in range(21)])
def test_constant_load_at_the_edge_does_not_flap(level: float) -> None:
    """Row 13: N, N-1, N, N-1 at constant load; one of these levels is the edge."""
    ready, actions, memory = 4, 0, Memory()
    for now in range(0, 4 * 3600, 10):
        work = level + (0.05 if now // 10 % 2 else -0.05)
        done, memory = plan(
            view(ready, at=now), forecast(work, spread=0.2), Policy(), memory, now=float(now)
        )
        ready += done.start - done.drain
        actions += done.acts
    assert actions <= 2


def test_a_budget_holds_while_units_still_drain() -> None:
    """Row 14: a rebalance took more GPUs than the budget had."""
    claims = [
        Claim("llm", "mi355x", present=6, start=4, worth=lambda n: 1.0 / n),
        Claim("video", "mi355x", present=5, start=2, worth=lambda n: 3.0 / n),
    ]
    given = granted(claims, {"mi355x": 12})  # 5 of them may be draining: not there yet
    assert sum(given.values()) == 1
    assert given["video"] == 1
    assert granted(claims, {"mi355x": 11}) == {"llm": 0, "video": 0}
    assert granted(claims, {}) == {"llm": 4, "video": 2}


def test_a_unit_that_cannot_be_placed_does_not_freeze_scale_in() -> None:
    """Row 15: no scale-in while a replica could not be scheduled."""
    stuck = unit("x", UnitState.STARTING, replicas=())
    units = [*(unit(f"r{i}") for i in range(10)), stuck]
    pool = _pool(**{f"r{i}": HealthState.READY for i in range(10)})
    stand = standing(units, pool, now=10_000.0, cold_start_s=240.0)
    assert stand.starting == (stuck,)
    memory = Memory(excess=1e6, seen_s=3600.0)
    seen = view(len(stand.serving), starting=(stuck.asked_at,))
    done, _ = plan(seen, forecast(3.0), Policy(), memory, now=10_000.0)
    assert done.drain > 0
    assert done.give_up == 1


def test_a_start_that_takes_too_long_is_given_up_and_replaced() -> None:
    """Row 15 as well: a stuck start is tried elsewhere."""
    seen = view(5, starting=(0.0, 990.0))
    done, _ = plan(seen, forecast(6.9), Policy(), Memory(shortage=1e6), now=1000.0)
    assert (done.give_up, done.start) == (1, 1)


def test_an_ejected_replica_is_no_start() -> None:
    pool = _pool(a=HealthState.EJECTED)
    stand = standing([unit("a", served_at=None)], pool, now=100.0, cold_start_s=60.0)
    assert [u.name for u in stand.stuck] == ["a"]


def test_refused_calls_wake_a_pool_of_zero() -> None:
    """Row 21: the signal counted accepted calls alone, so nothing ever started."""
    reader = SignalReader()
    reader.take([_signal(1.0, 0)], 1.0)
    arrived, _ = reader.take([_signal(2.0, 3, refused=3)], 2.0)
    assert arrived["m"].offered == 3
    work = row_of(arrived["m"], {"server": 0.9}, replicas_per_unit=1)
    assert work["t"] > 0.0
    seen = view(0, last_call_at=2.0)
    done, _ = plan(seen, forecast(0.0), Policy(least=0), Memory(), now=2.0)
    assert (done.start, done.guard) == (1, Guard.WAKE)


def test_signals_survive_the_wire_and_a_missed_second() -> None:
    signal = Signal(
        "g",
        5.0,
        1.0,
        {("m", "server", "t"): Counters(7, 1, 3.5, 3.0, 2.5, 5, 2)},
        {("m", "server"): Gauges(3, 1.5, 2, 0.5, 4.0, 6.0)},
        {"r": 3},
    )
    assert decode(encode(signal)) == signal
    reader = SignalReader()
    reader.take([_signal(1.0, 10)], 1.0)
    arrived, _ = reader.take([_signal(9.0, 90)], 9.0)  # eight seconds later: nothing is lost
    assert arrived["m"].offered == 80


def test_a_signal_that_stands_still_is_stale() -> None:
    reader = SignalReader()
    assert not reader.take([_signal(1.0, 0)], 1.0)[1]
    assert not reader.take([_signal(1.0, 0)], 3.0)[1]
    assert reader.take([_signal(1.0, 0)], 9.0)[1]


def test_deferrable_work_gives_way_until_its_deadline_needs_it() -> None:
    backlog = [Backlog(10_000.0, 5_000.0)]
    assert deferrable_units(backlog, idle_units=1.0, cold_start_s=240.0, now=0.0) == 0.0
    needed = deferrable_units(backlog, idle_units=0.0, cold_start_s=240.0, now=8_000.0)
    assert needed == pytest.approx(5_000.0 / 1_760.0)
