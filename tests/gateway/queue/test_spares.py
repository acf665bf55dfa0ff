"""Slots that no call is on: the newest is taken first, the oldest goes back."""

import pytest

from gateway.queue.ledger import Candidate, Cost, Slot
from gateway.queue.spares import Spares, fits


def slot(name: str, replica: str = "a", rank: int = 1) -> Slot:
    return Slot(name, replica, "m", f"g:{name}", rank, Cost(), 1.0, 0.0, 0.0)


def test_the_newest_of_a_class_is_taken_first() -> None:
    spares = Spares()
    one, two, other = slot("1"), slot("2"), slot("3", rank=0)
    for at, each in enumerate((one, two, other)):
        spares.put(each, at)
    assert spares.peek("b", 1) is None
    assert spares.peek("a", 2) is None
    found = spares.peek("a", 1)
    assert found is two
    spares.take(found)
    assert spares.peek("a", 1) is one
    assert "g:1" in spares
    assert "g:2" not in spares


def test_those_that_are_spare_for_long_go_back() -> None:
    spares = Spares()
    one, two, other = slot("1"), slot("2"), slot("3", "b")
    for at, each in enumerate((one, two, other), 1):
        spares.put(each, at)
    assert spares.oldest == 1
    assert spares.since_before(0.5) == []
    assert spares.since_before(1.5) == [one]
    assert spares.oldest == 2
    assert spares.since_before(9.0) == [two, other]
    assert not spares


@pytest.mark.parametrize(
    ("known", "alone", "expected"),
    [
        (Cost(1, 50, 5), True, True),
        (Cost(2, 0, 0), True, False),  # the class leaves one of three sequences to others
        (Cost(1, 61, 0), True, False),
        (Cost(1, 11, 0), False, False),  # others may have as much again
        (Cost(1, 10, 0), False, True),
        (Cost(1, 0, 7), True, False),
    ],
)
def test_a_slot_is_taken_over_within_the_bounds(known: Cost, alone: bool, expected: bool) -> None:
    candidate = Candidate("a", 3, kv_tokens=100, prefill_tokens=10, spare=1)
    assert fits(Cost(1, 40, 4), slot("1"), candidate, known, alone=alone) is expected


def test_a_call_larger_than_a_bound_takes_over_where_surely_no_other_runs() -> None:
    candidate = Candidate("a", 3, kv_tokens=100)
    assert fits(Cost(1, 400, 0), slot("1"), candidate, Cost(0), alone=True)
    assert not fits(Cost(1, 400, 0), slot("1"), candidate, Cost(0), alone=False)
