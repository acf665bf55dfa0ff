"""Who gives this gateway's calls their slots? The store, else it itself."""

from collections.abc import Mapping
from typing import Protocol

from gateway.queue.ledger import Ask, Backlog, Candidate, Cost, Slot
from gateway.queue.order import Waiting


class Decider(Protocol):
    """Decides for one model; slots that it gives are told to the desk's `grant`."""

    def tell(self, candidate: Candidate, rank: int | None) -> None:
        """Take in the bounds of a class on a replica."""
        ...

    def offer(self, candidates: tuple[Candidate, ...], rank: int | None) -> None:
        """Take in which replicas may be used, and up to what."""
        ...

    def take_over(self, ask: Ask, lease_id: str) -> bool:
        """Let a call run at once on its first candidate, where a slot is left for it."""
        ...

    def ask(self, waiting: Waiting) -> None:
        """Let a call wait, or have its slot at once."""
        ...

    def leave(self, lease_id: str) -> None:
        """End a wait."""
        ...

    def first_token(self, slot: Slot) -> None:
        """Free a slot's prefill tokens."""
        ...

    def release(self, slot: Slot) -> None:
        """Take a slot back."""
        ...

    def outstanding(self, replica_id: str) -> Cost:
        """Give what runs on a replica."""
        ...

    def backlog(self) -> Mapping[int, Backlog]:
        """Give who waits, by rank."""
        ...
