"""May calls be routed to a replica, given what probes and calls have shown? Pure: time comes in.

Busy is not dead: what proves that a replica still works (a call that got its answer) outweighs slow
probes, and refusals (4xx, 429, 503) are answers. What counts as a fault, and when it ejects:

| seen | ejects |
| --- | --- |
| nothing listens at the probe's address | at once |
| `/ready` times out or breaks | 3 in a row, no call answered in between |
| `/health` fails (slow, every 30 s) | 3 in a row, no call answered in between |
| calls fail to connect | 2 in a row |
| calls get no first byte, or break off | 3 in a row |
| calls get a 5xx other than 503 | 5 in a row |

An ejected replica is probed with a growing pause and readmitted when `/ready` says yes; if its
calls or its liveness had failed, only when `/health`, which generates a token, agrees. The first
fault of calls after that ejects again, for longer. A replica that says no on `/ready` is not
routed to and not faulted: it starts, pauses or drains.
"""

from dataclasses import dataclass, field, replace
from enum import StrEnum

from backends.fleet import Health, HealthState


class Probe(StrEnum):
    """What a readiness probe showed."""

    READY = "ready"
    NOT_READY = "not_ready"  # 503: an answer
    TIMEOUT = "timeout"  # it accepts connections and says nothing
    REFUSED = "refused"  # nothing listens there
    BROKEN = "broken"  # reset, garbage, another 5xx, an unknown host


class CallOutcome(StrEnum):
    """What a call showed of the replica that it was sent to."""

    OK = "ok"  # an answer began, whatever it said
    CONNECT_FAILED = "connect_failed"
    FIRST_BYTE_TIMEOUT = "first_byte_timeout"
    BROKEN_STREAM = "broken_stream"
    SERVER_ERROR = "server_error"


class Cause(StrEnum):
    """What an ejected replica was ejected for."""

    PROBES = "probes"
    LIVENESS = "liveness"
    CALLS = "calls"


@dataclass(frozen=True, slots=True)
class Rules:
    """The knobs. Counts are of consecutive events; times in seconds."""

    probe_faults: int = 3
    liveness_strikes: int = 3
    connect_faults: int = 2
    stream_faults: int = 3
    server_errors: int = 5
    first_backoff_s: float = 1.0
    longest_backoff_s: float = 10.0
    forget_after_s: float = 60.0


@dataclass(frozen=True, slots=True)
class Vitals:
    """All that is remembered of one replica; `health` is what others see.

    `retry_at` is when an ejected replica is looked at again, `ejections` how many of them have come
    without `forget_after_s` of health in between. `on_probation`: readmitted after its calls or its
    liveness had failed, and no call has succeeded since.
    """

    health: Health = field(default_factory=Health)
    probe_faults: int = 0
    liveness_strikes: int = 0
    call_faults: int = 0
    ejections: int = 0
    cause: Cause | None = None
    on_probation: bool = False
    retry_at: float = 0.0

    @property
    def needs_liveness(self) -> bool:
        """Whether only `/health` can readmit it."""
        return self.cause in (Cause.CALLS, Cause.LIVENESS)


def outcome_of_status(status: int) -> CallOutcome:
    """Tell whether an answer's status is a fault of the replica: a 5xx is, but never a 503."""
    return CallOutcome.SERVER_ERROR if status >= 500 and status != 503 else CallOutcome.OK


def after_probe(vitals: Vitals, probe: Probe, *, now: float, rules: Rules = Rules()) -> Vitals:
    """Take in a readiness probe."""
    ejected = vitals.health.state is HealthState.EJECTED
    if probe is Probe.NOT_READY:
        if ejected and vitals.needs_liveness:
            return replace(vitals, probe_faults=0)
        found = replace(vitals, probe_faults=0, cause=None)
        return _turn(found, HealthState.NOT_READY, "says that it is not ready", now)
    if probe is Probe.READY:
        if ejected and (vitals.needs_liveness or now < vitals.retry_at):
            return replace(vitals, probe_faults=0)
        return _readmit(vitals, now, rules)
    faults = vitals.probe_faults + 1
    seen = replace(vitals, probe_faults=faults)
    if ejected:
        return _postpone(seen, now, rules) if now >= vitals.retry_at else seen
    if probe is Probe.REFUSED or faults >= rules.probe_faults:
        return _eject(seen, Cause.PROBES, f"probe: {probe}", now, rules)
    return _with_strikes(seen)


def after_liveness(vitals: Vitals, alive: bool, *, now: float, rules: Rules = Rules()) -> Vitals:
    """Take in a liveness probe (`/health`)."""
    ejected = vitals.health.state is HealthState.EJECTED
    if alive:
        seen = replace(vitals, liveness_strikes=0)
        if ejected and seen.needs_liveness and now >= vitals.retry_at:
            # Readiness has the last word, at the next probe.
            return replace(seen, cause=None, on_probation=True)
        return _with_strikes(seen)
    seen = replace(vitals, liveness_strikes=vitals.liveness_strikes + 1)
    if ejected:
        return _postpone(seen, now, rules) if now >= vitals.retry_at else seen
    if seen.liveness_strikes >= rules.liveness_strikes:
        return _eject(seen, Cause.LIVENESS, "does not answer /health", now, rules)
    return _with_strikes(seen)


def after_call(
    vitals: Vitals, outcome: CallOutcome, *, now: float, rules: Rules = Rules()
) -> Vitals:
    """Take in how a call went; late reports on a replica that is already ejected change nothing."""
    if vitals.health.state is HealthState.EJECTED:
        return vitals
    if outcome is CallOutcome.OK:
        if not (_strikes(vitals) or vitals.on_probation):
            return vitals
        clean = replace(vitals, call_faults=0, probe_faults=0, liveness_strikes=0)
        return _with_strikes(replace(clean, on_probation=False))
    faults = vitals.call_faults + 1
    seen = replace(vitals, call_faults=faults)
    if vitals.on_probation or faults >= _permitted(outcome, rules):
        return _eject(seen, Cause.CALLS, f"calls: {outcome}", now, rules)
    return _with_strikes(seen)


def look_again_at(vitals: Vitals, *, now: float, every_s: float) -> float:
    """Tell when to probe next: every `every_s`; an ejected replica when its pause is over."""
    if vitals.health.state is HealthState.EJECTED:
        return max(vitals.retry_at, now + min(every_s, 0.1))
    return now + every_s


def _permitted(outcome: CallOutcome, rules: Rules) -> int:
    match outcome:
        case CallOutcome.CONNECT_FAILED:
            return rules.connect_faults
        case CallOutcome.SERVER_ERROR:
            return rules.server_errors
        case _:
            return rules.stream_faults


def _readmit(vitals: Vitals, now: float, rules: Rules) -> Vitals:
    ready = vitals.health.state is HealthState.READY
    forgiven = ready and now - vitals.health.since_at >= rules.forget_after_s
    found = replace(vitals, probe_faults=0, cause=None)
    if forgiven and found.ejections:
        found = replace(found, ejections=0, on_probation=False)
    return _turn(found, HealthState.READY, "", now)


def _eject(vitals: Vitals, cause: Cause, reason: str, now: float, rules: Rules) -> Vitals:
    count = vitals.ejections + 1
    retry_at = now + _backoff_s(count, rules)
    out = replace(vitals, ejections=count, cause=cause, retry_at=retry_at, call_faults=0)
    return _turn(out, HealthState.EJECTED, reason, now)


def _postpone(vitals: Vitals, now: float, rules: Rules) -> Vitals:
    """Still no good at the time for another look: look again later."""
    count = vitals.ejections + 1
    late = replace(vitals, ejections=count, retry_at=now + _backoff_s(count, rules))
    return _with_strikes(late)


def _backoff_s(ejections: int, rules: Rules) -> float:
    doubled: float = rules.first_backoff_s * 2.0 ** min(ejections - 1, 30)
    return min(doubled, rules.longest_backoff_s)


def _turn(vitals: Vitals, state: HealthState, reason: str, now: float) -> Vitals:
    before = vitals.health
    if before.state is state and before.reason == reason:
        return _with_strikes(vitals)
    since_at = before.since_at if before.state is state else now
    health = Health(state, since_at, reason, _strikes(vitals))
    return replace(vitals, health=health)


def _with_strikes(vitals: Vitals) -> Vitals:
    strikes = _strikes(vitals)
    if vitals.health.strikes == strikes:
        return vitals
    return replace(vitals, health=replace(vitals.health, strikes=strikes))


def _strikes(vitals: Vitals) -> int:
    return max(vitals.probe_faults, vitals.liveness_strikes, vitals.call_faults)
