"""Who holds a slot, and who is next, in virtual time? The gateway's own book, without a store."""

import itertools
from collections.abc import Callable, Mapping, Sequence

from bench.slo_world import MODEL, Time
from gateway.queue.book import Book
from gateway.queue.drain import Drain
from gateway.queue.ledger import Ask, Backlog, Candidate, Cost, Slot


class VirtualLedger:
    """The book of one model behind the ledger's reading methods; grants go to `on_grant`."""

    def __init__(self, time: Time, on_grant: Callable[[Slot], None]) -> None:
        self._time = time
        self._on_grant = on_grant
        self.book = Book(MODEL)
        self._drain = Drain()
        self._drain.note(0, 0, 0.0)
        self._lease = itertools.count()

    def ask(self, ask: Ask) -> str:
        """Let a call wait; it may be granted before this returns."""
        lease = str(next(self._lease))
        self._grant(self.book.acquire(lease, ask, self._time.t))
        return lease

    def leave(self, lease: str) -> None:
        """End a wait."""
        self._grant(self.book.leave(lease, self._time.t))

    async def acquire(self, ask: Ask, *, within_s: float) -> Slot:
        """Not here: see `ask`."""
        raise NotImplementedError

    def first_token(self, slot: Slot) -> None:
        """Free the prompt's tokens."""
        self._grant(self.book.first_token(slot.lease_id, self._time.t))

    def release(self, slot: Slot) -> None:
        """Give a slot back."""
        granted = self.book.release(slot.lease_id, self._time.t)
        self._drain.note(self.book.released, self.book.released_work_us, self._time.t)
        self._grant(granted)

    def offer(
        self, model: str, candidates: tuple[Candidate, ...], *, rank: int | None = None
    ) -> None:
        """Take in bounds."""
        self._grant(self.book.offer(candidates, rank, self._time.t))

    def running(self, replica_id: str) -> int:
        """Sequences on a replica."""
        return self.book.outstanding(replica_id).sequences

    def outstanding(self, replica_id: str) -> Cost:
        """What the calls on a replica hold."""
        return self.book.outstanding(replica_id)

    def waiting(self, model: str) -> int:
        """How many wait."""
        return self.book.waiting

    def backlog(self, model: str) -> Mapping[int, Backlog]:
        """Who waits."""
        return self.book.backlog()

    def drain_per_s(self, model: str) -> float:
        """Calls ended per second."""
        return self._drain.per_s(self._time.t)[0]

    def work_per_s(self, model: str) -> float:
        """Work ended per second."""
        return self._drain.per_s(self._time.t)[1]

    def _grant(self, slots: Sequence[Slot]) -> None:
        for slot in slots:
            self._on_grant(slot)
