"""In which order do those who wait for a model come up? Pure; `lua/ledger.lua` does the same.

Classes by rank. Inside a class, tenants by start-time fair queueing (Goyal, Vin, Cheng: SIGCOMM
1996): a tenant's calls carry tags that grow by work / weight, the least start tag is next, and a
tenant that comes back starts a few calls before the class's virtual time, if it has not used them:
a tenant within its share may come in small bursts, and idling saves no more than that up. Inside a
tenant, the earliest first-token deadline, then the first to come.

A class that waits while others are served gets one slot out of turn every `starvation_s` seconds.
"""

from bisect import bisect_left, insort
from collections.abc import Iterator
from dataclasses import dataclass, field

from msgspec import Struct

from gateway.queue.ledger import Ask, Backlog

STARVATION_S = 2.0
BURST_CALLS = 8.0  # of its own that a tenant which comes back may have before others take turns
_MOST_TAGS = 1024


class Waiting(Struct, frozen=True):
    """A call in the queue; `number` counts those who came to this queue before it."""

    lease_id: str
    ask: Ask
    since: float
    number: int


@dataclass(slots=True)
class _Class:
    """The waiting calls of one rank.

    tenants       (start tag, tenant) of those who wait, sorted
    start         their start tags
    calls         per tenant (first_token_by, number, lease id), sorted
    finish        finish tags of tenants, waiting or not
    virtual       the class's virtual time
    passed_since  instant of its last grant, or of the first call to wait after nobody did
    work_us       token work that waits, in microseconds: whole numbers, so that none is left over
    """

    tenants: list[tuple[float, str]] = field(default_factory=list)
    start: dict[str, float] = field(default_factory=dict)
    calls: dict[str, list[tuple[float, int, str]]] = field(default_factory=dict)
    finish: dict[str, float] = field(default_factory=dict)
    virtual: float = 0.0
    passed_since: float = 0.0
    count: int = 0
    work_us: int = 0

    def enter(self, tenant: str, start: float) -> None:
        """Put a tenant among those who wait."""
        self.start[tenant] = start
        insort(self.tenants, (start, tenant))

    def withdraw(self, tenant: str) -> float:
        """Take a tenant out of those who wait; give its start tag."""
        start = self.start.pop(tenant)
        del self.tenants[bisect_left(self.tenants, (start, tenant))]
        return start

    def forget_tags(self) -> None:
        """Drop finish tags that say no more than the virtual time does."""
        self.finish = {t: tag for t, tag in self.finish.items() if tag > self.virtual}


class Order:
    """The waiting calls of one model. `now` may be on any clock, as long as it is one."""

    def __init__(self, starvation_s: float = STARVATION_S) -> None:
        self.starvation_s = starvation_s
        self._classes: dict[int, _Class] = {}
        self._waiting: dict[str, Waiting] = {}
        self._number = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def __contains__(self, lease_id: str) -> bool:
        return lease_id in self._waiting

    def join(self, lease_id: str, ask: Ask, now: float) -> None:
        """Let a call wait."""
        self._number += 1
        waiting = Waiting(lease_id, ask, now, self._number)
        self._waiting[lease_id] = waiting
        of = self._classes.setdefault(ask.rank, _Class())
        if not of.count:
            of.passed_since = now
        if ask.tenant not in of.calls:
            of.calls[ask.tenant] = []
            early = of.virtual - BURST_CALLS * work_us(ask) / ask.weight
            of.enter(ask.tenant, max(early, of.finish.get(ask.tenant, 0.0)))
        insort(of.calls[ask.tenant], _place(waiting))
        of.count += 1
        of.work_us += work_us(ask)

    def leave(self, lease_id: str) -> Waiting | None:
        """Take a call out; None where it does not wait."""
        waiting = self._waiting.pop(lease_id, None)
        if waiting is None:
            return None
        of = self._classes[waiting.ask.rank]
        tenant = waiting.ask.tenant
        calls = of.calls[tenant]
        del calls[bisect_left(calls, _place(waiting))]
        if not calls:
            del of.calls[tenant]
            of.withdraw(tenant)
        of.count -= 1
        of.work_us -= work_us(waiting.ask)
        return waiting

    def charge(self, waiting: Waiting, now: float) -> None:
        """Book the work of a call that is served, before it leaves the queue."""
        of, ask = self._classes[waiting.ask.rank], waiting.ask
        start = of.withdraw(ask.tenant)
        finish = start + work_us(ask) / ask.weight
        of.virtual = max(of.virtual, start)
        of.finish[ask.tenant] = finish
        of.enter(ask.tenant, finish)
        of.passed_since = now
        if len(of.finish) > _MOST_TAGS:
            of.forget_tags()

    def ranks(self, now: float) -> list[int]:
        """Give the ranks of those who wait: one that has been passed over too long comes first."""
        ranks = sorted(rank for rank, of in self._classes.items() if of.count)
        passed_over = [
            (self._classes[rank].passed_since, rank)
            for rank in ranks[1:]
            if now - self._classes[rank].passed_since >= self.starvation_s
        ]
        if passed_over:
            _, first = min(passed_over)
            ranks.remove(first)
            ranks.insert(0, first)
        return ranks

    def calls(self, rank: int) -> Iterator[Waiting]:
        """Give the waiting calls of a rank in order; the order must not change meanwhile."""
        of = self._classes[rank]
        for _, tenant in of.tenants:
            for _, _, lease_id in of.calls[tenant]:
                yield self._waiting[lease_id]

    def backlog(self) -> dict[int, Backlog]:
        """Give the waiting calls and their work by rank."""
        return {
            rank: Backlog(of.count, of.work_us / 1e6)
            for rank, of in self._classes.items()
            if of.count
        }


def work_us(ask: Ask) -> int:
    """Give a call's work in whole microseconds."""
    return round(ask.work_s * 1e6)


def _place(waiting: Waiting) -> tuple[float, int, str]:
    return (waiting.ask.first_token_by, waiting.number, waiting.lease_id)
