"""A tenant that floods the queue is ahead of itself, and of few others."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.waiters import Waiters


def test_where_nobody_waits_here_all_that_waits_is_ahead() -> None:
    assert Waiters().ahead_s(0, "a", 0.1, 3.0, {}) == 3.0


def test_a_flood_is_ahead_of_its_own_tenant_and_not_of_another() -> None:
    waiters = Waiters()
    for _ in range(100):
        waiters.join(0, "flood", 0.1)
    assert waiters.ahead_s(0, "flood", 0.1, 10.0, {}) == pytest.approx(10.0)
    assert waiters.ahead_s(0, "other", 0.1, 10.0, {}) == pytest.approx(0.05)


def test_a_burst_of_a_few_calls_waits_for_itself_alone() -> None:
    waiters = Waiters()
    waiters.join(0, "flood", 50.0)
    waiters.join(0, "other", 0.4)
    assert waiters.ahead_s(0, "other", 0.1, 50.4, {}) == pytest.approx(0.45)


def test_weights_are_shares() -> None:
    waiters = Waiters()
    waiters.join(0, "a", 10.0)  # far beyond a burst
    waiters.join(0, "b", 10.0)
    light = waiters.ahead_s(0, "a", 0.1, 100.0, {"a": 1.0, "b": 4.0})
    heavy = waiters.ahead_s(0, "a", 0.1, 100.0, {"a": 4.0, "b": 1.0})
    assert light > 3 * heavy


def test_who_leaves_is_forgotten() -> None:
    waiters = Waiters()
    waiters.join(1, "a", 0.5)
    waiters.leave(1, "a", 0.5)
    assert waiters.ahead_s(1, "b", 0.1, 2.0, {}) == 2.0


@given(st.lists(st.tuples(st.sampled_from("abc"), st.floats(0.001, 5)), max_size=30))
def test_what_is_ahead_is_never_more_than_all_nor_less_than_nothing(
    calls: list[tuple[str, float]],
) -> None:
    waiters = Waiters()
    for tenant, work_s in calls:
        waiters.join(0, tenant, work_s)
    all_s = sum(work_s for _, work_s in calls)
    for tenant in "abcd":
        assert 0.0 <= waiters.ahead_s(0, tenant, 0.1, all_s, {"a": 2.0}) <= all_s
    for tenant, work_s in calls:
        waiters.leave(0, tenant, work_s)
    assert waiters.ahead_s(0, "a", 0.1, 7.0, {}) == 7.0
