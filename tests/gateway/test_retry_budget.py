"""Retries are a tenth of the calls, and a few more."""

from hypothesis import given
from hypothesis import strategies as st

from gateway.retry_budget import RESERVE, SHARE, RetryBudget


def test_a_few_retries_are_always_allowed_at_first() -> None:
    budget = RetryBudget()
    assert [budget.spend() for _ in range(12)] == [True] * 10 + [False] * 2


@given(st.lists(st.booleans(), max_size=500))
def test_retries_are_at_most_a_tenth_of_calls_and_the_reserve(steps: list[bool]) -> None:
    budget, calls, retries = RetryBudget(), 0, 0
    for is_call in steps:
        if is_call:
            budget.call()
            calls += 1
        else:
            retries += budget.spend()
    assert retries <= SHARE * calls + RESERVE + 1e-6
