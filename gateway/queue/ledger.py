"""Who holds a slot on which replica, and who is next?"""

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Candidate:
    """A replica that a call may run on, and how many calls may run there at once."""

    replica_id: str
    limit: int


@dataclass(frozen=True, slots=True)
class Ask:
    """What a call asks of the ledger. Candidates come in order of preference.

    Waiting calls are ordered by `rank`, then by `arrived` (monotonic seconds). Replicas in
    `excluded` have failed this call already.
    """

    call_id: str
    model: str
    rank: int
    arrived: float
    candidates: tuple[Candidate, ...]
    excluded: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Slot:
    """A call's place on a replica, until it is released."""

    call_id: str
    replica_id: str
    model: str


class Ledger(Protocol):
    """Slots and waiting calls. A slot is granted once, and given back once."""

    async def acquire(self, ask: Ask, *, within_s: float) -> Slot:
        """Take a slot on the first candidate with room, else wait.

        Raises TimeoutError after `within_s` seconds; a cancelled wait leaves nothing behind.
        """
        ...

    def release(self, slot: Slot) -> None:
        """Give a slot back, which hands it to the next waiting call; twice is the same as once."""
        ...

    def offer(self, model: str, candidates: tuple[Candidate, ...]) -> None:
        """Tell which replicas of a model may be used now: waiting calls take what is free."""
        ...

    def running(self, replica_id: str) -> int:
        """How many calls hold a slot on a replica."""
        ...

    def waiting(self, model: str) -> int:
        """How many calls wait for a model."""
        ...

    def drain_per_s(self, model: str) -> float:
        """How many slots of a model have come free per second lately."""
        ...
