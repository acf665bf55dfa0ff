"""Which rows of batches make room when calls of a tighter class wait? Pure but for `Yielding`.

A batch fills idle replicas deep. When a class that waits for less is given one of them, rows are
many there that would run on for long. The ledger tells (`WAITING`) when a call finds no slot; where
one waits still a moment later, the rows beyond what that class leaves hang up, on one replica at a
time, and their engine stops within a step. Such a row is run again: it is no failure, and counts
only once it has ended. What is done twice is bounded: each row that ends earns a part of a yield.
"""

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError

from gateway.call import Receipt
from gateway.queue.ledger import Backlog, Slot
from gateway.queue.operations import WAITING, read_waiting

EARNED = 0.2  # of a yield by each row that ends; one costs half a row on average
MOST_SAVED = 512.0  # a node's replicas filled deep, once
RETRY_S = 0.5
LOOK_S = 1.0  # what is known of who waits is as old
# Most calls that find no slot wait for prompts in flight to be done, which is soon; rows that hang
# up come too late for these and are run again for nothing.
PATIENT_S = 0.15


class Yielded(Exception):
    """The row made room; it is to be run again."""


@dataclass(slots=True)
class Credit:
    """How many rows may still yield."""

    left: float = MOST_SAVED

    def earn(self) -> None:
        """Take in that a row has ended."""
        self.left = min(self.left + EARNED, MOST_SAVED)

    def spend(self, wanted: int) -> int:
        """Give how many of so many may yield."""
        granted = min(wanted, int(self.left))
        self.left -= granted
        return granted


def beyond(rows: Iterable[Slot], guests: Callable[[str, int], int | None]) -> list[Slot]:
    """Give the rows that make room, the newest first: those beyond what may stay on one replica.

    `guests` says how many of a rank may stay on a replica (None: all). Of several replicas with too
    many, the one with the fewest too many: it costs least, and is as good as the others then.
    """
    by_replica: dict[str, list[Slot]] = {}
    for slot in rows:
        by_replica.setdefault(slot.replica_id, []).append(slot)
    too_many: list[list[Slot]] = []
    for replica_id, there in by_replica.items():
        stay = guests(replica_id, max(slot.rank for slot in there))
        if stay is not None and len(there) > stay:
            there.sort(key=lambda slot: slot.granted_at, reverse=True)
            too_many.append(there[: len(there) - stay])
    return min(too_many, key=len, default=[])


class Yielding:
    """The rows of this process that may be told to make room.

    `slots` gives this process's slots of a model, `backlog` who waits for it, and `guests` how many
    calls of a rank may be on one of its replicas that is kept for a tighter class (None: it is
    not). Rows make room for who waits for longer than `patient_s`; `watch` looks every `look_s`.
    """

    def __init__(
        self,
        redis: Redis,
        slots: Callable[[str], Iterable[Slot]],
        guests: Callable[[str, str, int], int | None],
        backlog: Callable[[str], Mapping[int, Backlog]],
        *,
        patient_s: float = PATIENT_S,
        look_s: float = LOOK_S,
    ) -> None:
        self._redis = redis
        self._slots = slots
        self._guests = guests
        self._backlog = backlog
        self._patient_s = patient_s
        self._look_s = look_s
        self._models: dict[str, str] = {}
        self._tasks: dict[str, asyncio.Task[Receipt]] = {}
        self._told: set[str] = set()
        self._looks: set[str] = set()  # models that are looked at in a moment
        self.credit = Credit()
        self.yielded = 0

    async def run(self, call_key: str, model: str, work: Coroutine[Any, Any, Receipt]) -> Receipt:
        """Run one row; raises Yielded where it was told to make room."""
        self._models[call_key] = model
        task = self._tasks[call_key] = asyncio.create_task(work, name="row's call")
        try:
            found = await task
        except asyncio.CancelledError:
            if call_key in self._told and task.cancelled() and not _is_cancelled():
                raise Yielded from None
            raise
        finally:
            task.cancel()
            self._tasks.pop(call_key, None)
            self._models.pop(call_key, None)
            self._told.discard(call_key)
        self.credit.earn()
        return found

    def hear(self, model: str, backlog: Mapping[int, Backlog]) -> None:
        """Take in who waits for a model: rows make room where somebody does so a moment later."""
        if model not in self._looks and any(each.calls for each in backlog.values()):
            self._looks.add(model)
            asyncio.get_running_loop().call_later(self._patient_s, self._look, model)

    def _look(self, model: str) -> None:
        self._looks.discard(model)
        self.wait(model, self._backlog(model))

    def wait(self, model: str, backlog: Mapping[int, Backlog]) -> None:
        """Have rows make room on one replica for those who wait for a model."""
        rows = [s for s in self._slots(model) if s.call_id in self._tasks]
        if any(slot.call_id in self._told for slot in rows):
            return  # they are about to go
        first = min((rank for rank, each in backlog.items() if each.calls), default=None)
        if first is None or not any(slot.rank > first for slot in rows):
            return
        wanted = beyond(rows, lambda replica_id, rank: self._guests(model, replica_id, rank))
        for slot in wanted[: self.credit.spend(len(wanted))]:
            self._told.add(slot.call_id)
            self._tasks[slot.call_id].cancel()
            self.yielded += 1

    async def watch(self) -> None:
        """Look for those who wait still, for ever: what was told is told once, and may be lost."""
        while True:
            await asyncio.sleep(self._look_s)
            for model in set(self._models.values()):
                self.hear(model, self._backlog(model))

    async def listen(self) -> None:
        """Hear of those who wait, for ever."""
        while True:
            try:
                async with self._redis.pubsub() as ear:
                    await ear.subscribe(WAITING)
                    async for message in ear.listen():
                        if message["type"] == "message":
                            self.hear(*read_waiting(message["data"]))
            except (RedisError, OSError):
                await asyncio.sleep(RETRY_S)


def _is_cancelled() -> bool:
    """Whether the running task itself was cancelled, not only what it waits for."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
