from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoscale.plan import Memory, plan
from autoscale.policy import BadPolicy, Policy, from_mapping
from autoscale.restraint import faded, regret, restraint
from autoscale.scaler import start_learnt
from tests.autoscale.making import forecast, view


def test_work_between_two_levels_is_the_area_under_the_chance_to_exceed_them() -> None:
    seen = replace(forecast(10.0), quantiles=(0.5, 0.9), up=[10.0, 20.0])
    assert seen.work_between(0.0, 10.0) == pytest.approx(7.5)  # the chance falls from 1 to 0.5
    assert seen.work_between(10.0, 20.0) == pytest.approx(3.0)  # and on to 0.1
    assert seen.work_between(15.0, 20.0) == pytest.approx(5.0 * 0.2)
    assert seen.work_between(20.0, 99.0) == 0.0
    assert seen.work_between(12.0, 12.0) == 0.0


@given(st.floats(0.0, 60.0), st.floats(0.0, 20.0), st.floats(0.0, 30.0), st.floats(0.0, 30.0))
def test_work_between_adds_up_and_is_no_more_than_the_units_could_do(
    level: float, spread: float, low: float, more: float
) -> None:
    seen = forecast(level, spread=spread)
    middle = low + more / 2
    whole = seen.work_between(low, low + more)
    assert whole <= more + 1e-9
    parts = seen.work_between(low, middle) + seen.work_between(middle, low + more)
    assert parts == pytest.approx(whole, abs=1e-9)


def test_quantiles_that_were_exceeded_too_often_count_for_more_work() -> None:
    seen = forecast(10.0, spread=2.0)
    assert replace(seen, shift=0.3).work_between(11.0, 12.0) > seen.work_between(11.0, 12.0)


def test_a_large_shortage_is_regretted_by_the_price_and_a_fraction_of_a_unit_hardly() -> None:
    sure = forecast(20.0)
    assert regret(sure, 10.0, 10.0, 20.0) > 10.0 * 10.0 * 0.5 - 10.0
    unlikely = forecast(9.5, spread=0.5)  # one time in ten above 10
    assert regret(unlikely, 8.0, 10.0, 10.05) == 0.0


def test_actions_grow_dearer_with_those_of_the_last_day() -> None:
    assert restraint(76.0, 76.0) == 1.0
    assert restraint(152.0, 76.0) == 10.0  # bounded
    assert restraint(38.0, 76.0) == pytest.approx(1 / 10)
    assert restraint(1e6, 0.0) == 1.0
    assert faded(10.0, 86_400.0) == pytest.approx(10.0 / 2.718281828)


def test_a_fleet_that_has_acted_often_waits_longer_before_it_takes_units_away() -> None:
    def waits(actions: float) -> int:
        memory, now = Memory(actions=actions, offered=1.0, seen_s=7200.0), 0
        while True:
            done, memory = plan(view(10, at=now), forecast(6.0), Policy(), memory, now=float(now))
            if done.acts:
                assert memory.actions is not None
                assert memory.actions > actions * 0.5 + 1.0
                return now
            now += 10

    assert waits(20.0) < waits(76.0) < waits(110.0)


def test_what_is_left_over_lowers_the_price_faster_than_what_is_spent_raises_it() -> None:
    policy = Policy()
    over = 2.0 * (1.0 - policy.attainment) * 10.0  # as far above what is allowed as 0 is below
    prices, spent = [], []
    for missed in (0.0, over):
        memory, now = Memory(), 0
        while True:
            seen = view(10, offered=10.0, missed=missed)
            done, memory = plan(seen, forecast(9.0), policy, memory, now=float(now))
            now += 10
            if now >= 36_000:
                break
        prices.append(done.price)
        spent.append(done.spent)
    assert spent[0] == pytest.approx(-spent[1])
    assert policy.price / prices[0] > prices[1] / policy.price > 1.0


def test_a_policy_may_not_ask_for_fewer_than_no_actions() -> None:
    with pytest.raises(BadPolicy, match="actions_per_day"):
        from_mapping({"actions_per_day": -1.0})


def test_a_wrong_guess_of_a_start_goes_soon_and_single_starts_hardly_count_later() -> None:
    known = 240.0
    for seen in range(4):
        known = start_learnt(known, 10.0, seen)
    assert known < 60.0
    for seen in range(4, 200):
        known = start_learnt(known, 10.0, seen)
    assert start_learnt(known, 30.0, 200) - known == pytest.approx(1.0, abs=0.1)
