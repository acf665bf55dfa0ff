"""Who runs where, and who comes next? One model's slots and queue, pure and synchronous.

The ledger of one process stands on it, virtual time as well; `lua/ledger.lua` does the same in the
store. Everything that may give somebody a slot returns the slots that it gave.
"""

from collections import Counter
from dataclasses import dataclass, field
from enum import Enum
from math import inf

from msgspec.structs import replace

from gateway.queue.bounds import Bounds
from gateway.queue.ledger import Ask, Backlog, Candidate, Cost, Slot
from gateway.queue.order import STARVATION_S, Order, Waiting, work_us

# While one call lacks tokens on a replica, smaller ones may go first: so many, or until it has
# waited for `starvation_s`. Then the replica is kept for it.
MOST_PASSED_OVER = 8
MOST_LOOKED_AT = 256


class Fit(Enum):
    """Whether a call may start on a replica."""

    ROOM = "room"
    FULL = "full"  # nor may any other call of its class
    SHORT = "short"  # of tokens, or of sequences for this call: a smaller one may fit


@dataclass(slots=True)
class _Load:
    """What runs on a replica; `ranks` counts its calls by class."""

    sequences: int = 0
    kv_tokens: int = 0
    prefill_tokens: int = 0
    ranks: Counter[int] = field(default_factory=Counter)

    def add(self, slot: Slot, sign: int) -> None:
        """Book a slot (sign 1), or book it out (-1)."""
        self.sequences += sign * slot.cost.sequences
        self.kv_tokens += sign * slot.cost.kv_tokens
        self.prefill_tokens += sign * slot.cost.prefill_tokens
        self.ranks[slot.rank] += sign
        if not self.ranks[slot.rank]:
            del self.ranks[slot.rank]


class Book:
    """Slots and waiting calls of one model. `now` may be on any clock, as long as it is one."""

    def __init__(self, model: str, *, starvation_s: float = STARVATION_S) -> None:
        self.model = model
        self.bounds = Bounds()
        self.released = 0
        self.released_work_us = 0
        self._order = Order(starvation_s)
        self._held: dict[str, Slot] = {}
        self._loads: dict[str, _Load] = {}

    def acquire(self, lease_id: str, ask: Ask, now: float) -> list[Slot]:
        """Let a call wait, and serve those who can be; the lease must be new."""
        for candidate in self.bounds.untold(ask.candidates, ask.rank):
            self.bounds.tell_of(candidate, ask.rank)
        self._order.join(lease_id, ask, now)
        granted: list[Slot] = []
        for candidate in ask.candidates:
            if self._fit(candidate.replica_id, ask) is Fit.ROOM:
                granted += self.hand_over(candidate.replica_id, now)
                if lease_id in self._held:
                    break
        return granted

    def leave(self, lease_id: str, now: float) -> list[Slot]:
        """End a wait; where the call has a slot already, give it back."""
        if self._order.leave(lease_id) is not None:
            return []
        return self.release(lease_id, now)

    def first_token(self, lease_id: str, now: float) -> list[Slot]:
        """Free the prefill tokens of a slot."""
        slot = self._held.get(lease_id)
        if slot is None or not slot.cost.prefill_tokens:
            return []
        self._loads[slot.replica_id].prefill_tokens -= slot.cost.prefill_tokens
        self._held[lease_id] = replace(slot, cost=replace(slot.cost, prefill_tokens=0))
        return self.hand_over(slot.replica_id, now)

    def release(self, lease_id: str, now: float) -> list[Slot]:
        """Give a slot back; nothing happens where there is none."""
        slot = self._held.pop(lease_id, None)
        if slot is None:
            return []
        load = self._loads[slot.replica_id]
        load.add(slot, -1)
        if not load.ranks:
            del self._loads[slot.replica_id]
        self.released += 1
        self.released_work_us += round(slot.work_s * 1e6)
        return self.hand_over(slot.replica_id, now)

    def offer(self, candidates: tuple[Candidate, ...], rank: int | None, now: float) -> list[Slot]:
        """Take in which replicas may be used, and serve those who can be."""
        self.bounds.tell(candidates, rank)
        return [slot for each in candidates for slot in self.hand_over(each.replica_id, now)]

    def adopt(self, slot: Slot) -> None:
        """Book a slot that was granted elsewhere, whatever the bounds say."""
        self._held[slot.lease_id] = slot
        self._loads.setdefault(slot.replica_id, _Load()).add(slot, 1)

    def hand_over(self, replica_id: str, now: float) -> list[Slot]:
        """Give what is free on a replica to those whose turn it is."""
        granted: list[Slot] = []
        while (waiting := self._next(replica_id, now)) is not None:
            self._order.charge(waiting, now)
            self._order.leave(waiting.lease_id)
            slot = self._slot(waiting, replica_id, now)
            self.adopt(slot)
            granted.append(slot)
        return granted

    def outstanding(self, replica_id: str) -> Cost:
        """Give what runs on a replica."""
        load = self._loads.get(replica_id) or _Load()
        return Cost(load.sequences, load.kv_tokens, load.prefill_tokens)

    def backlog(self) -> dict[int, Backlog]:
        """Give who waits, by rank."""
        return self._order.backlog()

    @property
    def held(self) -> tuple[Slot, ...]:
        """All slots."""
        return tuple(self._held.values())

    @property
    def waiting(self) -> int:
        """How many calls wait."""
        return len(self._order)

    def _next(self, replica_id: str, now: float) -> Waiting | None:
        """Choose who starts on a replica; None where nobody may."""
        passed_over = looked_at = 0
        for rank in self._order.ranks(now):
            for waiting in self._order.calls(rank):
                looked_at += 1
                if looked_at > MOST_LOOKED_AT:
                    return None
                if replica_id in waiting.ask.excluded:
                    continue
                fit = self._fit(replica_id, waiting.ask)
                if fit is Fit.ROOM:
                    return waiting
                if fit is Fit.FULL:
                    break
                passed_over += 1
                overdue = now - waiting.since >= self._order.starvation_s
                if overdue or passed_over >= MOST_PASSED_OVER:
                    return None
        return None

    def _fit(self, replica_id: str, ask: Ask) -> Fit:
        own = self.bounds.of(replica_id, ask.rank)
        if own is None or replica_id in ask.excluded:
            return Fit.FULL
        load, cost = self._loads.get(replica_id) or _Load(), ask.cost
        sequences, kv_tokens = own.sequences, _bound(own.kv_tokens)
        for rank in load.ranks:
            other = self.bounds.of(replica_id, rank)
            if other is not None and other.sequences:  # what must leave binds nobody else
                sequences = min(sequences, other.sequences)
                kv_tokens = min(kv_tokens, _bound(other.kv_tokens))
        if load.sequences + 1 + own.spare > sequences:
            return Fit.FULL
        enough = (
            _enough(load.sequences, cost.sequences, sequences - own.spare)
            and _enough(load.kv_tokens, cost.kv_tokens, kv_tokens)
            and _enough(load.prefill_tokens, cost.prefill_tokens, _bound(own.prefill_tokens))
        )
        return Fit.ROOM if enough else Fit.SHORT

    def _slot(self, waiting: Waiting, replica_id: str, now: float) -> Slot:
        ask = waiting.ask
        return Slot(
            call_id=ask.call_id,
            replica_id=replica_id,
            model=self.model,
            lease_id=waiting.lease_id,
            rank=ask.rank,
            cost=ask.cost,
            work_s=work_us(ask) / 1e6,
            granted_at=now,
            waited_s=now - waiting.since,
        )


def _bound(tokens: int | None) -> float:
    return inf if tokens is None else tokens


def _enough(used: int, cost: int, bound: float) -> bool:
    return not used or not cost or used + cost <= bound
