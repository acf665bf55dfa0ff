"""How do tests ask a ledger, and what may they look at besides what any ledger tells?"""

import asyncio
from typing import Any, Protocol

from gateway.queue.ledger import Ask, Candidate, Ledger, Slot
from gateway.queue.redis_ledger import RedisLedger
from tests.waiting import eventually

MODEL = "m"


class Inspectable(Ledger, Protocol):
    """A ledger that tells how many slots it holds."""

    @property
    def held(self) -> int:
        """How many slots this ledger holds."""
        ...


def ask(name: str, *replicas: str, limit: int = 1, rank: int = 1, **more: Any) -> Ask:
    """Make the ask of a call that may run on these replicas."""
    candidates = tuple(Candidate(each, limit) for each in replicas)
    return Ask(call_id=name, model=MODEL, rank=rank, candidates=candidates, **more)


class Caller:
    """Calls of a test by name, each in a task of its own."""

    def __init__(self, ledger: Inspectable) -> None:
        self.ledger = ledger
        self.order: list[str] = []
        self._tasks: dict[str, asyncio.Task[Slot]] = {}

    async def queue(self, asked: Ask, *, within_s: float = 30.0) -> asyncio.Task[Slot]:
        """Let a call wait; returns when it does, or has its slot."""
        before = self.ledger.waiting(asked.model)

        async def acquire() -> Slot:
            slot = await self.ledger.acquire(asked, within_s=within_s)
            self.order.append(asked.call_id)
            return slot

        task = asyncio.create_task(acquire())
        self._tasks[asked.call_id] = task
        await eventually(
            lambda: task.done() or self.ledger.waiting(asked.model) > before, every_s=0.001
        )
        return task

    async def serve_one_by_one(self, held: Slot) -> list[str]:
        """Release slot after slot until nobody is left; give the order in which calls came up."""
        while True:
            self.ledger.release(held)
            if len(self.order) == len(self._tasks):
                return self.order
            number = len(self.order)
            await eventually(lambda n=number: len(self.order) > n, every_s=0.001)  # type: ignore[misc]
            held = self._tasks[self.order[-1]].result()


async def emptied(ledger: Inspectable, *replicas: str) -> None:
    """Return once nobody waits and nothing runs, as the store knows it, too."""
    await eventually(
        lambda: (
            not ledger.held
            and not ledger.waiting(MODEL)
            and not any(ledger.running(each) for each in replicas)
            and not (isinstance(ledger, RedisLedger) and ledger.untold)
        ),
        every_s=0.002,
    )
