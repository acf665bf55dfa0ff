"""Small controllers find the place where about one call in a hundred misses."""

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from gateway.feedback import (
    EJECT_S,
    LEAST_MARGIN,
    LEAST_PACE,
    MOST_MARGIN,
    MOST_PACE,
    Margin,
    Outliers,
    Pace,
)


def test_the_pace_settles_where_one_call_in_a_hundred_misses() -> None:
    pace, dice, missed, now = Pace(), Random(1), 0, 0.0
    for number in range(60_000):
        now += 0.2
        tpot_s = 0.04 * pace.factor * dice.gauss(0.95, 0.1)
        pace.observe(tpot_s, 0.04, now)
        missed += number >= 20_000 and tpot_s > 0.04
    assert 0.002 < missed / 40_000 < 0.03


def test_calls_that_ran_side_by_side_teach_one_lesson() -> None:
    pace = Pace()
    for _ in range(50):
        pace.observe(0.05, 0.04, 10.0)
    assert pace.factor == 0.95


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1e6))))
def test_the_pace_stays_within_its_bounds(calls: list[tuple[float, float]]) -> None:
    pace = Pace()
    for tpot_s, now in calls:
        pace.observe(tpot_s, 0.04, now)
        assert LEAST_PACE <= pace.factor <= MOST_PACE


def test_the_margin_covers_all_but_two_in_a_hundred() -> None:
    margin, dice, late = Margin(), Random(1), 0
    for number in range(20_000):
        by_s = abs(dice.gauss(0, 0.04))
        late += number >= 5_000 and by_s > margin.within(0.45)
        margin.observe(by_s, 0.45)
    assert late / 15_000 < 0.03
    assert margin.share < 0.35


@given(st.lists(st.floats(-10, 10)))
def test_the_margin_stays_within_its_bounds(lateness: list[float]) -> None:
    margin = Margin()
    for late_s in lateness:
        margin.observe(late_s, 0.45)
        assert LEAST_MARGIN <= margin.share <= MOST_MARGIN


def observed(late: str, count: int = 20, replicas: str = "abcd") -> Outliers:
    outliers = Outliers()
    for _ in range(count):
        for name in replicas:
            outliers.observe(name, 20.0 if name in late else 1.0, 0.0)
    return outliers


def test_a_replica_far_later_than_its_pool_is_left_alone_for_a_while() -> None:
    outliers = observed("c")
    assert outliers.ejected(0.0) == {"c"}
    assert outliers.ejected(EJECT_S + 0.1) == frozenset()


def test_no_more_than_a_third_is_ejected() -> None:
    assert len(observed("abc", replicas="abcdefghi").ejected(0.0)) <= 3
    assert observed("abcd").ejected(0.0) == frozenset()


def test_two_replicas_are_no_pool_to_compare_with() -> None:
    assert observed("a", replicas="ab").ejected(0.0) == frozenset()


def test_a_few_calls_eject_nobody() -> None:
    assert observed("c", count=5).ejected(0.0) == frozenset()


def test_the_gone_are_forgotten() -> None:
    outliers = observed("c")
    outliers.keep_only({"a"})
    assert {*outliers.ratios} == {"a"}
