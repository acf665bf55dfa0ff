"""May this call start or wait, or is it better told now? By what it would miss; pure."""

from enum import StrEnum
from math import inf

from msgspec import Struct

MOST_RETRY_S = 120.0  # clients give up on more; a longer wait is told as final
SHORTEST_WAIT_S = 0.02  # a call with a slot free still has a round trip to the ledger to make


class Reason(StrEnum):
    """Why a call was told now: a label of metrics, records and refusals."""

    QUEUE_FULL = "queue_full"  # as many wait as may
    TTFT = "ttft_out_of_reach"  # its first token would come too late, even with a slot at once
    WAIT = "wait_too_long"  # who waits already would take longer than it can wait
    DEADLINE = "deadline_passed"  # it waited, and no slot came free in time
    LATE_SLOT = "slot_too_late"  # a slot came, too late for its first token


class Outlook(Struct, frozen=True, gc=False):
    """What admission looks at; seconds.

    `slack_s` is how long the call may wait for a slot and still keep its TTFT (infinite without
    one). `ahead_s` is the token work that will be served before it, `own_s` its own, `promised_s`
    that of calls who were told when to come back, and `does_per_s` how much of it the pool does in
    a second. `waiting` counts the calls of its class and of tighter ones. `reachable` False: not
    even an idle replica would keep its limits, so that load is not what stands in the way. `idle`:
    the replica that it would get has nothing to do. `sure` False: nothing was learnt yet. `late`:
    its promise is lost already, and it may be served late.
    """

    slack_s: float
    has_room: bool
    ahead_s: float
    own_s: float
    does_per_s: float
    waiting: int
    most_waiting: int
    patience_s: float
    reachable: bool = True
    idle: bool = False
    sure: bool = True
    promised_s: float = 0.0
    late: bool = False

    @property
    def expected_wait_s(self) -> float:
        """How long a slot will probably take to come; infinite where nothing is done."""
        if self.has_room and not self.ahead_s:
            return 0.0
        if self.does_per_s <= 0.0:
            return inf
        return (self.ahead_s + self.promised_s + self.own_s) / self.does_per_s


class Admit(Struct, frozen=True, gc=False):
    """A slot is free; the call may take it. `at_most_s` bounds the wait if another was faster."""

    at_most_s: float


class Wait(Struct, frozen=True, gc=False):
    """The call may wait for a slot for so long."""

    at_most_s: float


class Reject(Struct, frozen=True, gc=False):
    """The call is told now; `retry_after_s` is when there should be room."""

    reason: Reason
    retry_after_s: float


Decision = Admit | Wait | Reject


def decide(outlook: Outlook, *, least_retry_s: float) -> Decision:
    """Say whether a call may start, may wait, or is better told now.

    Formula: expected wait = (work ahead + own work) / work done per second, against the slack that
    the TTFT leaves. Where there is room those who wait could not use it, as long prompts need more
    of it, so that they are not ahead. What no load can explain (`reachable` False) is served as
    well as it goes, predictions of a law that was never learnt refuse nobody, and who is served
    late waits as long as its patience lasts, whatever is expected.
    """
    if outlook.waiting >= outlook.most_waiting and not (outlook.has_room and not outlook.ahead_s):
        return Reject(Reason.QUEUE_FULL, retry_after(outlook, least_retry_s=least_retry_s))
    strict = outlook.reachable and outlook.sure and not outlook.idle and not outlook.late
    slack_s = outlook.slack_s if strict else outlook.patience_s
    at_most_s = min(max(slack_s, SHORTEST_WAIT_S), outlook.patience_s)
    if outlook.has_room and not outlook.ahead_s:
        if slack_s < 0.0:
            return Reject(Reason.TTFT, retry_after(outlook, least_retry_s=least_retry_s))
        return Admit(at_most_s)
    if strict and slack_s < 0.0:
        return Reject(Reason.TTFT, retry_after(outlook, least_retry_s=least_retry_s))
    if strict and not outlook.has_room and outlook.expected_wait_s > at_most_s:
        return Reject(Reason.WAIT, retry_after(outlook, least_retry_s=least_retry_s))
    return Wait(at_most_s)


def retry_after(outlook: Outlook, *, least_retry_s: float) -> float:
    """Say in how many seconds a call like this would get a slot in time.

    Formula: (work ahead + work promised to those who were told to come back + own) / work done per
    second, less the slack that it would have then; at least `least_retry_s`. While nothing is done,
    `least_retry_s` alone. Above 120 s a caller is told that it is final.
    """
    if outlook.does_per_s <= 0.0:
        return least_retry_s
    work_s = outlook.ahead_s + outlook.promised_s + outlook.own_s
    wait_s = work_s / outlook.does_per_s - max(0.0, min(outlook.slack_s, outlook.patience_s))
    return max(least_retry_s, wait_s)
