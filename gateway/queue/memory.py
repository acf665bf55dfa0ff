"""The ledger of one process: for one gateway alone, and for virtual time."""

import asyncio
import heapq
from collections import Counter, defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field

from gateway.queue.ledger import Ask, Candidate, Slot

DRAIN_WINDOW_S = 10.0


@dataclass(order=True, slots=True)
class _Waiter:
    rank: int
    arrived: float
    number: int
    ask: Ask = field(compare=False)
    granted: asyncio.Future[Slot] = field(compare=False)


class MemoryLedger:
    """Slots in dictionaries, waiting calls in one heap per model.

    A waiter whose future is done has left; it is skipped when its turn comes.
    """

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._held: dict[str, Slot] = {}
        self._running: Counter[str] = Counter()
        self._limits: dict[str, int] = {}
        self._waiters: dict[str, list[_Waiter]] = defaultdict(list)
        self._waiting: Counter[str] = Counter()
        self._released: dict[str, deque[float]] = defaultdict(deque)
        self._number = 0

    async def acquire(self, ask: Ask, *, within_s: float) -> Slot:
        """Take a slot on the first candidate with room, else wait."""
        for candidate in ask.candidates:
            self._limits[candidate.replica_id] = candidate.limit
        if self._waiting[ask.model] == 0:
            for candidate in ask.candidates:
                if self._has_room(candidate.replica_id):
                    return self._grant(ask, candidate.replica_id)
        return await self._wait(ask, within_s)

    def release(self, slot: Slot) -> None:
        """Give a slot back."""
        if self._held.get(slot.call_id) is not slot:
            return
        del self._held[slot.call_id]
        self._running[slot.replica_id] -= 1
        if not self._running[slot.replica_id]:
            del self._running[slot.replica_id]
        released = self._released[slot.model]
        released.append(self._monotonic())
        while released and released[0] < released[-1] - DRAIN_WINDOW_S:
            released.popleft()
        self._hand_over(slot.model, slot.replica_id)

    def offer(self, model: str, candidates: tuple[Candidate, ...]) -> None:
        """Tell which replicas of a model may be used now."""
        for candidate in candidates:
            self._limits[candidate.replica_id] = candidate.limit
            self._hand_over(model, candidate.replica_id)

    def running(self, replica_id: str) -> int:
        """How many calls hold a slot on a replica."""
        return self._running[replica_id]

    def waiting(self, model: str) -> int:
        """How many calls wait for a model."""
        return self._waiting[model]

    def drain_per_s(self, model: str) -> float:
        """Slots of a model that came free per second in the last ten seconds."""
        since = self._monotonic() - DRAIN_WINDOW_S
        return sum(1 for at in self._released[model] if at >= since) / DRAIN_WINDOW_S

    @property
    def held(self) -> int:
        """How many slots are held in all."""
        return len(self._held)

    def _has_room(self, replica_id: str) -> bool:
        return self._running[replica_id] < self._limits.get(replica_id, 0)

    def _grant(self, ask: Ask, replica_id: str) -> Slot:
        slot = Slot(ask.call_id, replica_id, ask.model)
        self._held[ask.call_id] = slot
        self._running[replica_id] += 1
        return slot

    async def _wait(self, ask: Ask, within_s: float) -> Slot:
        self._number += 1
        granted: asyncio.Future[Slot] = asyncio.get_running_loop().create_future()
        waiter = _Waiter(ask.rank, ask.arrived, self._number, ask, granted)
        heapq.heappush(self._waiters[ask.model], waiter)
        self._waiting[ask.model] += 1
        for candidate in ask.candidates:
            self._hand_over(ask.model, candidate.replica_id)
        try:
            async with asyncio.timeout(within_s):
                return await granted
        except BaseException:
            if granted.done() and not granted.cancelled():
                self.release(granted.result())
            raise
        finally:
            granted.cancel()
            self._waiting[ask.model] -= 1

    def _hand_over(self, model: str, replica_id: str) -> None:
        heap = self._waiters[model]
        passed_over: list[_Waiter] = []
        while heap and self._has_room(replica_id):
            waiter = heapq.heappop(heap)
            if waiter.granted.done():
                continue
            if replica_id in waiter.ask.excluded:
                passed_over.append(waiter)
            else:
                waiter.granted.set_result(self._grant(waiter.ask, replica_id))
        for waiter in passed_over:
            heapq.heappush(heap, waiter)
