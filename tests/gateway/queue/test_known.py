"""What a gateway knows of loads: the store's word, and what it has done since."""

from gateway.queue.known import Known
from gateway.queue.ledger import Cost


def test_own_changes_count_until_the_store_has_answered_them() -> None:
    known = Known()
    known.change("a", Cost(1, 10, 5))
    assert known.of("a") == Cost(1, 10, 5)
    known.sent()
    known.change("a", Cost(1, 20, 5))
    known.answered({"a": Cost(3, 40, 6)}, everything=False)
    assert known.of("a") == Cost(4, 60, 11)  # the second call is not in that answer
    known.sent()
    known.answered({"a": Cost(4, 60, 11)}, everything=False)
    assert known.of("a") == Cost(4, 60, 11)


def test_what_ended_counts_at_once_and_never_below_nothing() -> None:
    known = Known()
    known.answered({"a": Cost(1, 10, 0)}, everything=False)
    known.change("a", Cost(1, 10, 0), -1)
    assert known.of("a") == Cost(0)
    known.change("a", Cost(1, 10, 0), -1)  # of a slot that the store has not told of
    assert known.of("a") == Cost(0)


def test_an_answer_that_tells_everything_empties_what_it_leaves_out() -> None:
    known = Known()
    known.answered({"a": Cost(1), "b": Cost(2)}, everything=True)
    known.answered({"b": Cost(1)}, everything=True)
    assert (known.of("a"), known.of("b")) == (Cost(0), Cost(1))


def test_a_slot_that_no_call_is_on_counts_for_nothing_whatever_the_store_tells() -> None:
    known = Known()
    known.answered({"a": Cost(2, 30, 0)}, everything=False)
    known.set_aside("a", Cost(1, 10, 0))
    assert known.of("a") == Cost(1, 20, 0)
    known.sent()
    known.answered({"a": Cost(2, 30, 0)}, everything=True)
    assert known.of("a") == Cost(1, 20, 0)
    known.set_aside("a", Cost(1, 10, 0), -1)
    known.change("a", Cost(1, 10, 0), -1)  # given back
    assert known.of("a") == Cost(1, 20, 0)
    known.sent()
    known.answered({"a": Cost(1, 20, 0)}, everything=True)
    assert known.of("a") == Cost(1, 20, 0)


def test_a_slot_that_is_passed_on_counts_as_one_that_ended_and_one_that_began() -> None:
    at_once, step_by_step = Known(), Known()
    for known in (at_once, step_by_step):
        known.answered({"a": Cost(3, 30, 2)}, everything=True)
        known.set_aside("a", Cost(1, 10, 0))
    at_once.pass_on("a", Cost(1, 10, 0), Cost(1, 25, 5))
    step_by_step.set_aside("a", Cost(1, 10, 0), -1)
    step_by_step.change("a", Cost(1, 10, 0), -1)
    step_by_step.change("a", Cost(1, 25, 5))
    for known in (at_once, step_by_step):
        assert known.of("a") == Cost(3, 45, 7)
        known.sent()
        known.change("a", Cost(1, 1, 1))
        known.answered({"a": Cost(3, 45, 7)}, everything=False)
        assert known.of("a") == Cost(4, 46, 8)
