"""Which slots has this gateway no call on, but the store still counts as its own?

A call that comes while nobody waits takes such a slot over at once, and the store hears of it
later: no round trip before the call begins, which is most of what a ledger costs. A slot that no
call takes over goes back to the store a moment later, at once where somebody waits.
"""

from gateway.queue.ledger import Candidate, Cost, Slot


class Spares:
    """Slots by replica, each with the instant from which it was spare; the newest is taken first,
    so that what is not needed grows old.
    """

    def __init__(self) -> None:
        self._by_replica: dict[str, list[tuple[float, Slot]]] = {}

    def __bool__(self) -> bool:
        return bool(self._by_replica)

    def __contains__(self, lease_id: str) -> bool:
        return any(s.lease_id == lease_id for of in self._by_replica.values() for _, s in of)

    def put(self, slot: Slot, at: float) -> None:
        """Take in a slot; instants must not go back."""
        self._by_replica.setdefault(slot.replica_id, []).append((at, slot))

    def peek(self, replica_id: str, rank: int) -> Slot | None:
        """Give the newest spare slot of a class on a replica, and leave it there."""
        for _, slot in reversed(self._by_replica.get(replica_id, ())):
            if slot.rank == rank:
                return slot
        return None

    def take(self, slot: Slot) -> None:
        """Take out a slot that `peek` gave."""
        pairs = self._by_replica[slot.replica_id]
        at = next(i for i in reversed(range(len(pairs))) if pairs[i][1] is slot)
        del pairs[at]
        if not pairs:
            del self._by_replica[slot.replica_id]

    def since_before(self, instant: float) -> list[Slot]:
        """Take out those that are spare since the instant or longer."""
        found: list[Slot] = []
        for replica_id, pairs in [*self._by_replica.items()]:
            if pairs[0][0] > instant:
                continue
            found += [slot for at, slot in pairs if at <= instant]
            pairs[:] = [pair for pair in pairs if pair[0] > instant]
            if not pairs:
                del self._by_replica[replica_id]
        return found

    @property
    def oldest(self) -> float:
        """The instant since when one is spare; there must be one."""
        return min(pairs[0][0] for pairs in self._by_replica.values())

    def clear(self) -> None:
        """Forget all: the store is told afresh what is held."""
        self._by_replica.clear()


def fits(cost: Cost, spare: Slot, candidate: Candidate, known: Cost, *, alone: bool) -> bool:
    """Say whether a call may take over a spare slot; `known` is what runs there without it.

    Within the bounds as far as they are known. What other gateways (there are some unless `alone`)
    have done there since the store's last word of it, a second ago at most, may take as many tokens
    again.
    """
    times = 1 if alone else 2
    return (
        cost.sequences <= spare.cost.sequences
        and known.sequences + cost.sequences + candidate.spare <= candidate.sequences
        and _enough(known.kv_tokens, cost.kv_tokens, candidate.kv_tokens, times)
        and _enough(known.prefill_tokens, cost.prefill_tokens, candidate.prefill_tokens, times)
    )


def _enough(used: int, cost: int, bound: int | None, times: int) -> bool:
    """Whether tokens fit; what is larger than a bound runs where surely no other does."""
    if bound is None or not cost or (not used and times == 1):
        return True
    return (used + cost) * times <= bound
