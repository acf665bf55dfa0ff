"""Who is refused is told a time of its own, and is expected then."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.returns import HORIZON_S, MOST, MOST_TENANTS, SHARE, Returns


def test_each_is_told_a_later_time() -> None:
    book = Returns()
    times = [book.promise(n, 0.5, 5.0, earliest=1.0, now=0.0) for n in range(3)]
    step_s = 0.5 / (SHARE * 5.0)
    assert times == pytest.approx([1.0, 1.0 + step_s, 1.0 + 2 * step_s])


def test_who_comes_when_told_is_known_once() -> None:
    book = Returns()
    at = book.promise(7, 0.5, 5.0, earliest=3.0, now=0.0)
    assert not book.claim(7, at - 2.0)
    assert not book.claim(8, at)
    assert book.claim(7, at + 0.2)
    assert not book.claim(7, at + 0.3)


def test_work_comes_back_when_it_is_due_and_is_dropped_when_nobody_comes() -> None:
    book = Returns()
    for n in range(4):
        book.promise(n, 0.5, 1.0, earliest=2.0, now=0.0)
    assert book.work_until(2.5, now=0.0) == 0.5
    assert book.work_until(100.0, now=0.0) == 2.0
    assert book.work_until(100.0, now=100.0) == 0.0


def test_what_is_too_far_off_is_not_kept() -> None:
    book = Returns()
    assert book.promise(1, 0.5, 1.0, earliest=HORIZON_S + 1, now=0.0) == HORIZON_S + 1
    assert not book.due


@given(st.lists(st.tuples(st.integers(0, 20), st.floats(0, 10), st.floats(0, 5)), max_size=60))
def test_promises_are_bounded_and_never_in_the_past(
    asked: list[tuple[int, float, float]],
) -> None:
    book, now = Returns(), 0.0
    for name, work_s, pause_s in asked:
        now += pause_s
        assert book.promise(name, work_s, 2.0, earliest=now + 1.0, now=now) >= now + 1.0
        assert len(book.due) <= MOST
        assert book.work_until(now + 1e9, now) >= 0.0


def test_what_one_tenant_was_promised_is_not_ahead_of_another() -> None:
    book = Returns()
    book.promise(1, 0.5, 1.0, 1.0, 0.0, tenant="flood")
    assert book.work_until(9.0, 0.0, tenant="flood") == 0.5
    assert book.work_until(9.0, 0.0, tenant="other") == 0.0


def test_callers_who_never_come_back_keep_nobody_out_for_long() -> None:
    book, now = Returns(), 0.0
    for n in range(200):  # one refusal a second, and each is told to come in five
        now = float(n)
        book.promise(n, 0.5, 2.0, earliest=now + 5.0, now=now, tenant="gone")
    assert book.work_until(now + 10.0, now, tenant="gone") < 0.05
    assert book.work_until(now + 10.0, now, tenant="other") == 0.0


def test_those_who_come_back_are_expected_in_full_until_they_are_late() -> None:
    book, now = Returns(), 0.0
    for n in range(50):
        at = book.promise(n, 0.5, 2.0, earliest=now + 5.0, now=now)
        assert book.work_until(at, at) == 0.5
        assert book.claim(n, at + 1.0)
        now = at + 1.0
    at = book.promise(99, 0.5, 2.0, earliest=now, now=now)
    assert book.work_until(at + 3.0, at + 1.0) == 0.5
    assert book.work_until(at + 3.0, at + 2.0) == 0.0
    assert book.claim(99, at + 4.0)  # it still comes before who is new


def test_what_is_known_of_tenants_is_bounded() -> None:
    book = Returns()
    for n in range(MOST_TENANTS + 5):
        book.promise(n, 0.5, 2.0, earliest=float(n), now=float(n), tenant=f"t{n}")
        assert book.claim(n, float(n))
    assert len(book.comes) == MOST_TENANTS
