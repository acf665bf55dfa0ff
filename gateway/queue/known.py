"""What runs on each replica of a model, as far as one gateway knows?

What the store told last, and what this gateway has done since: a store that hears of it a moment
later would otherwise make routing send several calls to the place of one.
"""

from collections.abc import Iterable, Mapping

from gateway.queue.ledger import Cost

NOTHING = Cost(0)


class Known:
    """Loads by replica. What others did is as old as the store's last word of that replica."""

    def __init__(self) -> None:
        self._told: dict[str, Cost] = {}
        self._since: dict[str, Cost] = {}  # what was done since the last batch, and in that one
        self._under_way: dict[str, Cost] = {}
        self._aside: dict[str, Cost] = {}  # of slots that the store counts and no call is on
        self._sums: dict[str, Cost] = {}

    def of(self, replica_id: str) -> Cost:
        """Give what runs on a replica."""
        return self._sums.get(replica_id, NOTHING)

    def change(self, replica_id: str, by: Cost, sign: int = 1) -> None:
        """Take in what this gateway has begun there (sign 1), or ended (-1)."""
        since = self._since
        since[replica_id] = _sum(since.get(replica_id, NOTHING), by, sign)
        self._sums[replica_id] = _least_0(_sum(self._sums.get(replica_id, NOTHING), by, sign))

    def set_aside(self, replica_id: str, by: Cost, sign: int = 1) -> None:
        """Take in that no call is on a slot which the store still counts; -1: that is over."""
        aside = self._aside
        aside[replica_id] = _sum(aside.get(replica_id, NOTHING), by, sign)
        self._sums[replica_id] = _least_0(_sum(self._sums.get(replica_id, NOTHING), by, -sign))

    def pass_on(self, replica_id: str, before: Cost, after: Cost) -> None:
        """Take in that a call has taken over a slot that was set aside, in one step."""
        since, aside, sums = self._since, self._aside, self._sums
        aside[replica_id] = _sum(aside.get(replica_id, NOTHING), before, -1)
        change = _sum(after, before, -1)
        since[replica_id] = _sum(since.get(replica_id, NOTHING), change, 1)
        sums[replica_id] = _least_0(_sum(sums.get(replica_id, NOTHING), after, 1))

    def sent(self) -> None:
        """A batch tells the store of all that was done."""
        self._under_way, self._since = self._since, {}

    def answered(self, loads: Mapping[str, Cost], *, everything: bool) -> None:
        """Take in the answer to that batch; `everything`: what it leaves out runs nothing."""
        if everything:
            self._told = dict(loads)
            changed: Iterable[str] = {*loads, *self._sums}
        else:
            self._told.update(loads)
            changed = {*loads, *self._under_way}
        self._under_way = {}
        for replica_id in changed:
            known = self._told.get(replica_id, NOTHING)
            since, aside = self._since.get(replica_id), self._aside.get(replica_id)
            known = known if since is None else _sum(known, since, 1)
            self._sums[replica_id] = _least_0(known if aside is None else _sum(known, aside, -1))

    def forget_own(self) -> None:
        """Take nothing as done of what the store has not answered: it is told afresh."""
        self._since, self._under_way, self._aside = {}, {}, {}


def _sum(one: Cost, other: Cost, sign: int) -> Cost:
    return Cost(
        one.sequences + sign * other.sequences,
        one.kv_tokens + sign * other.kv_tokens,
        one.prefill_tokens + sign * other.prefill_tokens,
    )


def _least_0(cost: Cost) -> Cost:
    if cost.sequences >= 0 and cost.kv_tokens >= 0 and cost.prefill_tokens >= 0:
        return cost
    return Cost(max(cost.sequences, 0), max(cost.kv_tokens, 0), max(cost.prefill_tokens, 0))
