"""A call is told at the door what it would miss, and when there should be room."""

from math import inf

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from gateway.admission import Admit, Outlook, Reason, Reject, Wait, decide, retry_after

CALM = Outlook(
    slack_s=0.3,
    has_room=True,
    ahead_s=0.0,
    own_s=0.1,
    does_per_s=5.0,
    waiting=0,
    most_waiting=100,
    patience_s=10.0,
)
BUSY = replace(CALM, has_room=False, ahead_s=1.0, waiting=10)


def decided(outlook: Outlook) -> Admit | Wait | Reject:
    return decide(outlook, least_retry_s=1.0)


def test_a_call_with_room_and_time_is_admitted() -> None:
    assert decided(CALM) == Admit(0.3)


def test_a_call_waits_where_the_work_ahead_ends_in_time() -> None:
    assert decided(BUSY) == Wait(0.3)


def test_a_call_is_told_where_the_work_ahead_ends_too_late() -> None:
    found = decided(replace(BUSY, ahead_s=4.0))
    assert isinstance(found, Reject)
    assert found.reason is Reason.WAIT


def test_who_waits_is_not_ahead_of_a_call_that_fits_where_they_do_not() -> None:
    assert decided(replace(BUSY, ahead_s=4.0, has_room=True)) == Wait(0.3)


def test_a_call_whose_first_token_is_too_late_already_is_told() -> None:
    for outlook in (CALM, BUSY):
        found = decided(replace(outlook, slack_s=-0.01))
        assert isinstance(found, Reject)
        assert found.reason is Reason.TTFT


def test_who_is_served_late_waits_as_long_as_it_may_whatever_is_expected() -> None:
    late = replace(BUSY, slack_s=inf, ahead_s=1000.0)
    assert isinstance(decided(late), Reject)
    assert decided(replace(late, late=True)) == Wait(10.0)
    full = decided(replace(late, late=True, waiting=100))
    assert isinstance(full, Reject)
    assert full.reason is Reason.QUEUE_FULL


def test_a_call_without_a_ttft_waits_as_long_as_its_class_may() -> None:
    assert decided(replace(BUSY, slack_s=inf)) == Wait(10.0)


def test_a_full_queue_takes_nobody_but_who_need_not_wait() -> None:
    full = replace(BUSY, waiting=100)
    found = decided(full)
    assert isinstance(found, Reject)
    assert found.reason is Reason.QUEUE_FULL
    assert isinstance(decided(replace(CALM, waiting=100)), Admit)


def test_what_load_does_not_explain_is_served_as_well_as_it_goes() -> None:
    assert isinstance(decided(replace(CALM, slack_s=-5.0, reachable=False)), Admit)
    assert isinstance(decided(replace(CALM, slack_s=-5.0, idle=True)), Admit)
    assert decided(replace(BUSY, slack_s=-5.0, reachable=False)) == Wait(10.0)


def test_a_law_that_was_never_learnt_refuses_nobody() -> None:
    assert isinstance(decided(replace(CALM, slack_s=-5.0, sure=False)), Admit)
    assert decided(replace(BUSY, ahead_s=100.0, sure=False)) == Wait(10.0)


def test_retry_after_is_when_the_backlog_has_drained_so_far_that_the_wait_would_do() -> None:
    outlook = replace(BUSY, ahead_s=30.0, own_s=0.5, does_per_s=5.0, slack_s=0.1)
    assert retry_after(outlook, least_retry_s=1.0) == 30.5 / 5.0 - 0.1
    assert retry_after(BUSY, least_retry_s=1.0) == 1.0
    assert retry_after(replace(outlook, does_per_s=0.0), least_retry_s=2.0) == 2.0


def test_work_promised_to_those_who_come_back_is_ahead_too() -> None:
    assert isinstance(decided(replace(BUSY, promised_s=3.0)), Reject)


@given(
    slack=st.one_of(st.floats(-10, 100), st.just(inf)),
    room=st.booleans(),
    ahead=st.floats(0, 1e4),
    own=st.floats(0, 100),
    does=st.floats(0, 100),
    waiting=st.integers(0, 200),
    reachable=st.booleans(),
    sure=st.booleans(),
)
def test_a_wait_ends_in_time_and_a_refusal_says_when(
    slack: float, room: bool, ahead: float, own: float, does: float, waiting: int,
    reachable: bool, sure: bool,
) -> None:  # fmt: skip
    outlook = Outlook(slack, room, ahead, own, does, waiting, 100, 10.0, reachable, False, sure)
    match decided(outlook):
        case Admit(at_most_s) | Wait(at_most_s):
            assert 0.0 < at_most_s <= 10.0
            if reachable and sure and not room:
                assert at_most_s <= max(slack, 0.021)
                assert outlook.expected_wait_s <= at_most_s
        case Reject(_, retry_after_s):
            assert retry_after_s >= 1.0
            assert (reachable and sure) or waiting >= 100


@given(st.floats(0, 100), st.floats(0, 100))
def test_more_work_ahead_never_makes_a_refusal_an_admission(first: float, more: float) -> None:
    rank = {Admit: 0, Wait: 1, Reject: 2}
    less = decided(replace(BUSY, ahead_s=first))
    greater = decided(replace(BUSY, ahead_s=first + more))
    assert rank[type(less)] <= rank[type(greater)]
