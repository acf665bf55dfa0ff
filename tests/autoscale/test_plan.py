from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoscale.plan import Guard, Memory, Plan, plan
from autoscale.policy import BadPolicy, Policy, from_mapping
from tests.autoscale.making import forecast, view


def after(
    ready: int, level: float, *, seconds: float, policy: Policy | None = None, **changes: object
) -> Plan:
    """Decide every ten seconds on the same view; give the first plan that acts, else the last."""
    policy, memory, done = policy or Policy(), Memory(), None
    now = 0.0
    while now <= seconds:
        seen = view(ready, at=now, **changes)
        done, memory = plan(seen, forecast(level, at=now), policy, memory, now=now)
        if done.acts:
            return done
        now += 10.0
    assert done is not None
    return done


def test_a_shortage_starts_what_is_missing_within_a_tick_or_two() -> None:
    done = after(10, 14.2, seconds=30)
    assert (done.start, done.target) == (5, 15)


def test_calls_that_wait_are_answered_at_once() -> None:
    seen = view(10, waiting_s=2400.0, oldest_wait_s=5.0)
    done, _ = plan(seen, forecast(10.0), Policy(), Memory(), now=0.0)
    assert done.guard is Guard.QUEUE
    assert done.start == 10  # the level, and what waits spread over a cold start


def test_calls_that_wait_though_there_should_be_enough_keep_what_there_is_and_ask_for_mo() -> None:
    """The law may be wrong, or classes may not share as it says: a queue that stands tells."""
    waits: dict[str, Any] = {"waiting_s": 120.0, "oldest_wait_s": 60.0}
    done = after(10, 6.0, seconds=3600, **waits)
    assert (done.start, done.target, done.guard) == (1, 11, Guard.BACKLOG)
    assert done.at > 60.0  # what waits for a moment is not worth a start
    kept = after(10, 6.0, seconds=3600, waiting_s=1.0, oldest_wait_s=2.0)
    assert not kept.drain
    assert after(10, 6.0, seconds=3600).drain


def test_pending_starts_count() -> None:
    done = after(10, 14.2, seconds=600, starting=(0.0,) * 5)
    assert not done.start


def test_pending_starts_are_cancelled_before_ready_replicas_are_drained() -> None:
    done = after(10, 9.0, seconds=3600, starting=(3500.0,) * 3)
    assert done.cancel >= 3
    assert done.drain <= 1


def test_what_the_next_cold_starts_need_is_kept() -> None:
    held = forecast(5.0)
    held = type(held)(0.0, 5.0, 240.0, held.quantiles, held.up, (0.5, 0.7, 0.85), [9.5] * 3)
    memory = Memory()
    for now in range(0, 7200, 10):
        done, memory = plan(view(10, at=now), held, Policy(), memory, now=float(now))
        assert done.target == 10


def test_nothing_is_taken_away_before_a_record_is_as_long_as_what_is_held_for() -> None:
    memory, downs = Memory(), []
    for now in range(0, 1200, 10):
        done, memory = plan(view(10, at=now), forecast(3.0), Policy(), memory, now=float(now))
        downs.append((now, done.drain, done.guard))
    first = next(now for now, drain, _ in downs if drain)
    assert first >= 600  # two and a half starts of 240 s
    assert Guard.RECORD in {guard for now, _, guard in downs if now < first}


def test_one_step_down_is_bounded() -> None:
    done = after(40, 4.0, seconds=7200, policy=Policy(most_step_down=0.25))
    assert (done.drain, done.guard) == (10, Guard.STEP)


def test_nothing_is_taken_away_while_signals_are_stale() -> None:
    done = after(20, 0.5, seconds=7200, blind=True)
    assert not done.acts
    assert done.guard is Guard.BLIND


def test_a_pool_of_zero_wakes_for_one_call_and_sleeps_again() -> None:
    policy = Policy(least=0, idle_s=300.0)
    woken = after(0, 0.01, seconds=0, policy=policy)
    assert (woken.start, woken.guard) == (1, Guard.WAKE)
    asleep = after(1, 0.0, seconds=900, policy=policy)
    assert (asleep.drain, asleep.guard) == (1, Guard.IDLE)


def test_a_lowered_budget_is_kept() -> None:
    done = after(10, 10.0, seconds=0, policy=Policy(most=6))
    assert (done.drain, done.guard) == (4, Guard.BUDGET)


def test_spare_units_stand_by_for_a_lost_node() -> None:
    assert after(10, 9.5, seconds=600, policy=Policy(spare_units=1)).target == 11


def test_a_spent_error_budget_raises_the_price_and_a_saved_one_lowers_it() -> None:
    spending, saving = Memory(), Memory()
    prices = (0.0, 0.0)
    for now in range(0, 36_000, 10):
        bad, spending = plan(
            view(10, offered=10.0, missed=1.0), forecast(9.0), Policy(), spending, now=float(now)
        )
        good, saving = plan(view(10, offered=10.0), forecast(9.0), Policy(), saving, now=float(now))
        prices = bad.price, good.price
    assert prices[0] > Policy().price > prices[1]


@given(
    ready=st.integers(0, 60),
    pending=st.integers(0, 10),
    level=st.floats(0.0, 80.0),
    spread=st.floats(0.0, 10.0),
    waiting=st.floats(0.0, 1e4),
    blind=st.booleans(),
    shortage=st.floats(0.0, 1e4),
    excess=st.floats(0.0, 1e6),
)
def test_a_plan_never_contradicts_itself(
    ready: int,
    pending: int,
    level: float,
    spread: float,
    waiting: float,
    blind: bool,
    shortage: float,
    excess: float,
) -> None:
    policy = Policy(most=50)
    seen = view(
        ready,
        starting=(990.0,) * pending,
        waiting_s=waiting,
        oldest_wait_s=10.0 if waiting else 0.0,
        blind=blind,
    )
    memory = Memory(shortage=shortage, excess=excess, at=990.0, offered=1.0, seen_s=10.0)
    done, _ = plan(seen, forecast(level, spread=spread), policy, memory, now=1000.0)
    assert not (done.start and (done.cancel or done.drain))
    assert done.target == ready + pending + done.start - done.cancel - done.drain
    assert done.target <= max(policy.most, ready + pending)
    assert done.drain <= ready
    assert done.cancel <= pending
    if blind and ready + pending <= policy.most:
        assert not done.drain
        assert not done.cancel


@given(st.floats(0.0, 60.0), st.floats(0.0, 20.0))
def test_more_work_never_wants_fewer_units(level: float, more: float) -> None:
    low, _ = plan(view(1), forecast(level, spread=1.0), Policy(), Memory(), now=0.0)
    high, _ = plan(view(1), forecast(level + more, spread=1.0), Policy(), Memory(), now=0.0)
    assert high.wanted >= low.wanted


def test_unknown_knobs_fail_with_the_known_ones() -> None:
    with pytest.raises(BadPolicy, match="no knob 'prize'; there are attainment"):
        from_mapping({"prize": 3})
    with pytest.raises(BadPolicy, match="no preset"):
        from_mapping({"preset": "cheap"})
    assert from_mapping({"preset": "saving", "most": 9}).most == 9
