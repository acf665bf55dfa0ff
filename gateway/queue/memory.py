"""The ledger of one process: for one gateway alone, and for virtual time."""

import asyncio
import itertools
from collections.abc import Callable, Iterable, Mapping

from gateway.queue.book import Book
from gateway.queue.drain import Drain
from gateway.queue.ledger import Ask, Backlog, Candidate, Cost, Slot
from gateway.queue.order import STARVATION_S


class MemoryLedger:
    """A book per model; who waits has a future, which is its slot in the end."""

    def __init__(self, now: Callable[[], float], *, starvation_s: float = STARVATION_S) -> None:
        self._now = now
        self._starvation_s = starvation_s
        self._books: dict[str, Book] = {}
        self._drains: dict[str, Drain] = {}
        self._model_of: dict[str, str] = {}
        self._granted: dict[str, asyncio.Future[Slot]] = {}
        self._numbers = itertools.count(1)

    async def acquire(self, ask: Ask, *, within_s: float) -> Slot:
        """Take a slot on the first candidate with room, else wait."""
        book = self._book(ask.model)
        for candidate in ask.candidates:
            self._model_of[candidate.replica_id] = ask.model
        lease_id = str(next(self._numbers))
        granted: asyncio.Future[Slot] = asyncio.get_running_loop().create_future()
        self._granted[lease_id] = granted
        try:
            self._settle(book.acquire(lease_id, ask, self._now()))
            async with asyncio.timeout(within_s):
                return await granted
        except BaseException:
            self._settle(book.leave(lease_id, self._now()))
            raise
        finally:
            del self._granted[lease_id]

    def first_token(self, slot: Slot) -> None:
        """Note that a call's first token is there."""
        self._settle(self._book(slot.model).first_token(slot.lease_id, self._now()))

    def release(self, slot: Slot) -> None:
        """Give a slot back."""
        book, now = self._book(slot.model), self._now()
        self._settle(book.release(slot.lease_id, now))
        self._drains[slot.model].note(book.released, book.released_work_us, now)

    def offer(
        self, model: str, candidates: tuple[Candidate, ...], *, rank: int | None = None
    ) -> None:
        """Tell which replicas of a model may be used now."""
        for candidate in candidates:
            self._model_of[candidate.replica_id] = model
        self._settle(self._book(model).offer(candidates, rank, self._now()))

    def running(self, replica_id: str) -> int:
        """How many sequences run on a replica."""
        return self.outstanding(replica_id).sequences

    def outstanding(self, replica_id: str) -> Cost:
        """What the calls on a replica hold of it."""
        model = self._model_of.get(replica_id)
        return Cost(0) if model is None else self._book(model).outstanding(replica_id)

    def waiting(self, model: str) -> int:
        """How many calls wait for a model."""
        return self._book(model).waiting

    def backlog(self, model: str) -> Mapping[int, Backlog]:
        """Who waits for a model, by rank."""
        return self._book(model).backlog()

    def drain_per_s(self, model: str) -> float:
        """Slots of a model that came free per second in the last ten seconds."""
        self._book(model)
        return self._drains[model].per_s(self._now())[0]

    def work_per_s(self, model: str) -> float:
        """Token work of a model that ended per second in the last ten seconds."""
        self._book(model)
        return self._drains[model].per_s(self._now())[1]

    @property
    def held(self) -> int:
        """How many slots are held in all."""
        return sum(len(book.held) for book in self._books.values())

    def _book(self, model: str) -> Book:
        book = self._books.get(model)
        if book is None:
            book = self._books[model] = Book(model, starvation_s=self._starvation_s)
            self._drains[model] = Drain()
            self._drains[model].note(0, 0, self._now())
        return book

    def _settle(self, slots: Iterable[Slot]) -> None:
        """Wake those who were granted a slot; one that has left gives it back by itself."""
        for slot in slots:
            granted = self._granted.get(slot.lease_id)
            if granted is not None and not granted.done():
                granted.set_result(slot)
