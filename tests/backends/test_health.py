"""When is a replica routed to, ejected and readmitted?"""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.fleet import HealthState
from backends.health import (
    CallOutcome,
    Cause,
    Probe,
    Rules,
    Vitals,
    after_call,
    after_liveness,
    after_probe,
    look_again_at,
    outcome_of_status,
)

RULES = Rules()
READY = after_probe(Vitals(), Probe.READY, now=0.0)


def probed(vitals: Vitals, *probes: Probe, now: float = 1.0) -> Vitals:
    for probe in probes:
        vitals = after_probe(vitals, probe, now=now)
    return vitals


def called(vitals: Vitals, *outcomes: CallOutcome, now: float = 1.0) -> Vitals:
    for outcome in outcomes:
        vitals = after_call(vitals, outcome, now=now)
    return vitals


def test_a_replica_is_routed_to_once_it_says_that_it_is_ready() -> None:
    assert Vitals().health.state is HealthState.UNKNOWN
    assert READY.health.state is HealthState.READY


def test_unready_is_neither_routed_to_nor_a_fault() -> None:
    paused = probed(READY, *[Probe.NOT_READY] * 20)
    assert paused.health.state is HealthState.NOT_READY
    assert paused.health.strikes == 0
    assert paused.health.since_at == 1.0
    assert probed(paused, Probe.READY).health.state is HealthState.READY


def test_nothing_listening_ejects_at_once() -> None:
    gone = probed(READY, Probe.REFUSED)
    assert gone.health.state is HealthState.EJECTED
    assert "refused" in gone.health.reason


@pytest.mark.parametrize("probe", [Probe.TIMEOUT, Probe.BROKEN])
def test_silence_ejects_after_three_probes(probe: Probe) -> None:
    silent = probed(READY, probe, probe)
    assert silent.health.state is HealthState.READY
    assert silent.health.strikes == 2
    assert probed(silent, probe).health.state is HealthState.EJECTED


def test_a_busy_replica_that_still_answers_calls_is_not_dead() -> None:
    vitals = READY
    for _ in range(10):
        vitals = probed(vitals, Probe.TIMEOUT, Probe.TIMEOUT)
        vitals = called(vitals, CallOutcome.OK)
        vitals = after_liveness(vitals, False, now=1.0)
    assert vitals.health.state is HealthState.READY


def test_liveness_has_three_strikes() -> None:
    vitals = READY
    for strike in (1, 2):
        vitals = after_liveness(vitals, False, now=1.0)
        assert vitals.health.state is HealthState.READY
        assert vitals.health.strikes == strike
    assert after_liveness(vitals, True, now=1.0).health.strikes == 0
    vitals = after_liveness(vitals, False, now=1.0)
    assert vitals.health.state is HealthState.EJECTED
    assert vitals.cause is Cause.LIVENESS


@pytest.mark.parametrize(
    ("outcome", "count"),
    [
        (CallOutcome.CONNECT_FAILED, 2),
        (CallOutcome.FIRST_BYTE_TIMEOUT, 3),
        (CallOutcome.BROKEN_STREAM, 3),
        (CallOutcome.SERVER_ERROR, 5),
    ],
)
def test_calls_that_fail_in_a_row_eject(outcome: CallOutcome, count: int) -> None:
    nearly = called(READY, *[outcome] * (count - 1))
    assert nearly.health.state is HealthState.READY
    assert called(nearly, CallOutcome.OK, outcome).health.state is HealthState.READY
    assert called(nearly, outcome).health.state is HealthState.EJECTED


@pytest.mark.parametrize("status", [200, 400, 401, 404, 408, 413, 422, 429, 499, 503])
def test_refusals_are_answers(status: int) -> None:
    assert outcome_of_status(status) is CallOutcome.OK


@pytest.mark.parametrize("status", [500, 502, 504, 599])
def test_other_server_errors_are_faults(status: int) -> None:
    assert outcome_of_status(status) is CallOutcome.SERVER_ERROR


def test_a_replica_that_was_away_returns_at_its_first_ready_probe_after_the_pause() -> None:
    gone = probed(READY, Probe.REFUSED, now=10.0)
    assert gone.retry_at == 11.0
    assert probed(gone, Probe.READY, now=10.5).health.state is HealthState.EJECTED
    assert probed(gone, Probe.READY, now=11.0).health.state is HealthState.READY


def test_pauses_double_up_to_a_limit_while_it_stays_away() -> None:
    vitals, pauses = probed(READY, Probe.REFUSED, now=0.0), []
    for _ in range(6):
        now = vitals.retry_at
        vitals = probed(vitals, Probe.REFUSED, now=now)
        pauses.append(vitals.retry_at - now)
    assert pauses == [2.0, 4.0, 8.0, 10.0, 10.0, 10.0]


def test_failing_calls_need_a_token_from_health_before_readmission_and_then_have_one_try() -> None:
    failed = called(READY, *[CallOutcome.SERVER_ERROR] * 5, now=10.0)
    assert probed(failed, Probe.READY, now=12.0).health.state is HealthState.EJECTED
    early = after_liveness(failed, True, now=10.5)
    assert probed(early, Probe.READY, now=10.6).health.state is HealthState.EJECTED
    back = probed(after_liveness(failed, True, now=11.0), Probe.READY, now=11.0)
    assert back.health.state is HealthState.READY
    again = called(back, CallOutcome.SERVER_ERROR, now=12.0)
    assert again.health.state is HealthState.EJECTED
    assert again.retry_at == 14.0
    proved = called(back, CallOutcome.OK, CallOutcome.SERVER_ERROR, now=12.0)
    assert proved.health.state is HealthState.READY


def test_late_reports_on_an_ejected_replica_do_not_prolong_it() -> None:
    gone = called(READY, *[CallOutcome.CONNECT_FAILED] * 2, now=10.0)
    assert called(gone, *[CallOutcome.BROKEN_STREAM] * 50, now=10.9) == gone


def test_a_minute_of_health_is_forgiveness() -> None:
    vitals = probed(probed(READY, Probe.REFUSED, now=0.0), Probe.READY, now=1.0)
    assert vitals.ejections == 1
    assert probed(vitals, Probe.READY, now=60.0).ejections == 1
    assert probed(vitals, Probe.READY, now=61.0).ejections == 0


def test_it_is_looked_at_again_at_its_pace_or_when_its_pause_is_over() -> None:
    assert look_again_at(READY, now=5.0, every_s=1.0) == 6.0
    gone = probed(READY, Probe.REFUSED, now=5.0)
    assert look_again_at(gone, now=5.0, every_s=1.0) == 6.0
    assert look_again_at(gone, now=9.0, every_s=1.0) == pytest.approx(9.1)


@dataclass(frozen=True)
class Event:
    name: str
    apply: Callable[[Vitals, float], Vitals]


EVENTS = st.sampled_from(
    [
        *(Event(p, lambda v, t, p=p: after_probe(v, p, now=t)) for p in Probe),  # type: ignore[misc]
        *(Event(o, lambda v, t, o=o: after_call(v, o, now=t)) for o in CallOutcome),  # type: ignore[misc]
        Event("alive", lambda v, t: after_liveness(v, True, now=t)),
        Event("dead", lambda v, t: after_liveness(v, False, now=t)),
    ]
)
STORIES = st.lists(st.tuples(EVENTS, st.floats(0.0, 40.0)), max_size=60)


@given(STORIES)
def test_invariants_hold_in_any_story(story: list[tuple[Event, float]]) -> None:
    vitals, now = Vitals(), 1000.0
    for event, pause_s in story:
        now += pause_s
        before, vitals = vitals, event.apply(vitals, now)
        state = vitals.health.state
        assert vitals.health.since_at <= now
        assert (vitals.cause is not None) <= (state is HealthState.EJECTED)
        assert (
            vitals.retry_at <= now + RULES.longest_backoff_s or vitals.retry_at == before.retry_at
        )
        if state is HealthState.READY and before.health.state is not HealthState.READY:
            assert event.name == Probe.READY, "only readiness opens the gate"
        if before.health.state is HealthState.EJECTED and state is HealthState.READY:
            assert now >= before.retry_at
        if event.name == CallOutcome.OK:
            assert state is before.health.state, "an answer never closes the gate"
        if event.name == Probe.NOT_READY:
            assert state in (HealthState.NOT_READY, HealthState.EJECTED)


@given(STORIES)
def test_a_sound_replica_is_always_readmitted(story: list[tuple[Event, float]]) -> None:
    vitals, now = Vitals(), 1000.0
    for event, pause_s in story:
        now += pause_s
        vitals = event.apply(vitals, now)
    ended = now
    for _ in range(3):
        now = look_again_at(vitals, now=now, every_s=1.0)
        vitals = after_probe(vitals, Probe.READY, now=now)
        if vitals.health.state is HealthState.EJECTED and vitals.needs_liveness:
            vitals = after_liveness(vitals, True, now=now)
    assert vitals.health.state is HealthState.READY
    assert now <= ended + RULES.longest_backoff_s + 2.0 + 1e-6  # sums of floats


@given(st.lists(st.sampled_from([400, 401, 404, 413, 422, 429, 503]), max_size=200))
def test_no_number_of_refusals_ejects(statuses: list[int]) -> None:
    vitals = READY
    for status in statuses:
        vitals = after_call(vitals, outcome_of_status(status), now=1.0)
    assert vitals == READY
