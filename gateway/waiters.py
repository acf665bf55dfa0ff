"""How much work is ahead of a call, where tenants take turns by their shares? Pure.

The ledger serves a class by fair queueing, so a tenant that floods the queue is ahead of itself and
of few others. What waits through this gateway says how the tenants stand to each other.
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

from gateway.queue.order import BURST_CALLS


@dataclass(slots=True)
class Waiters:
    """Work that waits for one model through this gateway, in seconds, by rank and tenant."""

    _work_s: dict[int, dict[str, float]] = field(default_factory=lambda: defaultdict(dict))

    def waiting(self, rank: int, tenant: str, work_s: float) -> "Wait":
        """Cover the time that a call waits."""
        return Wait(self, rank, tenant, work_s)

    def join(self, rank: int, tenant: str, work_s: float) -> None:
        """Note that a call waits."""
        of = self._work_s[rank]
        of[tenant] = of.get(tenant, 0.0) + work_s

    def leave(self, rank: int, tenant: str, work_s: float) -> None:
        """Note that it does not any more."""
        of = self._work_s[rank]
        left = of.get(tenant, 0.0) - work_s
        if left > 1e-9:
            of[tenant] = left
        else:
            of.pop(tenant, None)

    def ahead_s(
        self,
        rank: int,
        tenant: str,
        own_s: float,
        all_s: float,
        weights: Mapping[str, float],
    ) -> float:
        """Give the work of a call's own class that is served before it, of `all_s` in all.

        Formula: `mine + (mine - burst) * others / own weight + call / 2 * others / own weight`,
        where mine is what the tenant has waiting already and others the sum of their weights: while
        the tenant works off what is beyond its burst of calls, the others work off their shares,
        and of a round of calls half is before this one on average.
        Never more than all. Seen from this gateway alone, whose callers stand for all.
        """
        of = self._work_s.get(rank)
        if not of:
            return all_s
        own_weight = weights.get(tenant, 1.0)
        others = sum(weights.get(name, 1.0) for name in of if name != tenant)
        mine_s = of.get(tenant, 0.0)
        turns_s = max(0.0, mine_s - BURST_CALLS * own_s)
        round_s = mine_s * own_weight + turns_s * others + 0.5 * own_s * others
        return min(all_s, round_s / own_weight)


class Wait:
    """One call's wait. A class, for it is made for each call: a generator costs twice as much."""

    __slots__ = ("_rank", "_tenant", "_waiters", "_work_s")

    def __init__(self, waiters: Waiters, rank: int, tenant: str, work_s: float) -> None:
        self._waiters = waiters
        self._rank = rank
        self._tenant = tenant
        self._work_s = work_s

    def __enter__(self) -> None:
        self._waiters.join(self._rank, self._tenant, self._work_s)

    def __exit__(self, *_: object) -> None:
        self._waiters.leave(self._rank, self._tenant, self._work_s)
