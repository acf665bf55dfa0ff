"""What may run here while the store does not answer? This gateway's share, by a book of its own.

The share of a replica is its bound divided by the number of gateways that were last seen. Together
they never exceed the bounds by more than what one gateway held beyond its share when the store
went, and one slot per gateway where there are more gateways than slots.
"""

from collections.abc import Callable, Iterable, Mapping

from msgspec.structs import replace

from gateway.queue.book import Book
from gateway.queue.ledger import Ask, Backlog, Candidate, Cost, Slot
from gateway.queue.order import Waiting


class Alone:
    """One model's calls of one gateway of `among`; `grant` hears which lease got which replica."""

    def __init__(
        self,
        model: str,
        among: int,
        *,
        now: Callable[[], float],
        starvation_s: float,
        grant: Callable[[str, str], object],
    ) -> None:
        self._among = max(1, among)
        self._now = now
        self._grant = grant
        self._book = Book(model, starvation_s=starvation_s)

    def adopt(self, slot: Slot) -> None:
        """Book a slot that the store granted."""
        self._book.adopt(slot)

    def tell(self, candidate: Candidate, rank: int | None) -> None:
        """Take in the bounds of a class on a replica."""
        self._book.bounds.tell_of(self._share(candidate), rank)

    def offer(self, candidates: tuple[Candidate, ...], rank: int | None) -> None:
        """Take in which replicas may be used, and up to what."""
        shares = tuple(self._share(each) for each in candidates)
        self._settle(self._book.offer(shares, rank, self._now()))

    def take_over(self, ask: Ask, lease_id: str) -> bool:
        """Nothing is spare: a slot that is given back goes to the next at once."""
        return False

    def ask(self, waiting: Waiting) -> None:
        """Let a call wait, or have its slot at once."""
        shares = tuple(self._share(each) for each in waiting.ask.candidates)
        ask = replace(waiting.ask, candidates=shares)
        self._settle(self._book.acquire(waiting.lease_id, ask, self._now()))

    def leave(self, lease_id: str) -> None:
        """End a wait."""
        self._settle(self._book.leave(lease_id, self._now()))

    def first_token(self, slot: Slot) -> None:
        """Free a slot's prefill tokens."""
        self._settle(self._book.first_token(slot.lease_id, self._now()))

    def release(self, slot: Slot) -> None:
        """Take a slot back."""
        self._settle(self._book.release(slot.lease_id, self._now()))

    def outstanding(self, replica_id: str) -> Cost:
        """Give what runs on a replica."""
        return self._book.outstanding(replica_id)

    def backlog(self) -> Mapping[int, Backlog]:
        """Give who waits, by rank."""
        return self._book.backlog()

    def _settle(self, slots: Iterable[Slot]) -> None:
        for slot in slots:
            self._grant(slot.lease_id, slot.replica_id)

    def _share(self, candidate: Candidate) -> Candidate:
        among, kv, prefill = self._among, candidate.kv_tokens, candidate.prefill_tokens
        return Candidate(
            candidate.replica_id,
            max(min(1, candidate.sequences), candidate.sequences // among),
            None if kv is None else kv // among,
            None if prefill is None else prefill // among,
            candidate.spare // among,
        )
