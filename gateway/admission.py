"""May this call start or wait, or is it better told now? Pure."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PoolState:
    """What admission looks at: calls that wait, and slots that come free per second."""

    waiting: int
    max_waiting: int
    drain_per_s: float


@dataclass(frozen=True, slots=True)
class Wait:
    """The call may take a slot, or wait for one for so long."""

    at_most_s: float


@dataclass(frozen=True, slots=True)
class Reject:
    """The call is told now; `retry_after_s` is when there should be room."""

    retry_after_s: float


Decision = Wait | Reject


def decide(state: PoolState, *, patience_s: float, least_retry_s: float) -> Decision:
    """Let a call wait for `patience_s` seconds, unless the queue is full."""
    if state.waiting < state.max_waiting:
        return Wait(patience_s)
    return Reject(retry_after(state, least_retry_s=least_retry_s))


def retry_after(state: PoolState, *, least_retry_s: float) -> float:
    """Say in how many seconds those who wait now will have been served.

    waiting / drain rate, at least `least_retry_s`; that alone while nothing has come free lately.
    """
    if state.drain_per_s <= 0:
        return least_retry_s
    return max(least_retry_s, (state.waiting + 1) / state.drain_per_s)
