"""When does the store hear of what was done here? In batches, one under way at a time.

What is urgent goes when this turn of the loop is over, or with the next batch where one is under
way; what nobody waits for goes with the next batch, or a moment later.
"""

import asyncio
from collections.abc import Awaitable, Iterable
from typing import Protocol

from redis.exceptions import RedisError

from gateway.queue.operations import MOST_OPERATIONS, Answer, BatchLost, Mode, Operation

LINGER_S = 0.02


class Correspondent(Protocol):
    """Who has something to tell the store, and hears its answers."""

    def send(self, mode: Mode, operations: list[Operation]) -> Awaitable[Answer]:
        """Have a batch done. Raises BatchLost, redis.RedisError, OSError or TimeoutError."""
        ...

    def overdue(self) -> Iterable[Operation]:
        """Give what has lain here long enough and goes with the next batch."""
        ...

    def everything(self) -> list[Operation]:
        """Give all that the store should know, for one that knows nothing."""
        ...

    def sent(self) -> None:
        """A batch is on its way: it tells of all that was done."""
        ...

    def answered(self, answer: Answer) -> None:
        """Take in what the store says."""
        ...

    def lost(self) -> None:
        """The store does not know what it was told before."""
        ...

    def unanswered(self) -> None:
        """The store does not answer."""
        ...

    def due_in_s(self) -> float | None:
        """Say in how many seconds something will be overdue; None where nothing will."""
        ...


class Outbox:
    """Operations that the store has not heard of, and the task that tells it."""

    def __init__(self, name: str, whose: Correspondent) -> None:
        self._name = name
        self._whose = whose
        self._operations: list[Operation] = []
        self._mode = Mode.RESTORE
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._sends_at = 0.0  # when the timer is due, by the loop's clock
        self._has_ended = False

    def __len__(self) -> int:
        return len(self._operations)

    @property
    def is_under_way(self) -> bool:
        """Whether a batch has been sent that is not answered yet, or is just being made."""
        return self._task is not None

    def add(self, operation: Operation, *, urgent: bool = False) -> None:
        """Put an operation into the next batch."""
        self._operations.append(operation)
        if urgent:
            self.start()
        else:
            self.linger()

    def linger(self, within_s: float = LINGER_S) -> None:
        """Have a batch sent within this time."""
        if self._task is not None or self._has_ended:
            return
        loop = asyncio.get_running_loop()
        at = loop.time() + within_s
        if self._timer is None or at < self._sends_at:
            self._stop_timer()
            self._timer, self._sends_at = loop.call_at(at, self.start), at

    def start(self) -> None:
        """Have a batch sent when this turn of the loop is over."""
        self._stop_timer()
        if self._task is None and not self._has_ended:
            self._task = asyncio.create_task(self._exchange(), name=self._name)

    def begin_afresh(self, operation: Operation) -> None:
        """Have the next batch tell everything, whatever was to be told; the operation starts it."""
        self._mode = Mode.RESTORE
        self._operations = [operation]
        self.start()

    def clear(self) -> None:
        """Drop what the store has not heard of."""
        self._operations = []

    async def quit(self) -> None:
        """Send nothing more."""
        self._has_ended = True
        self._stop_timer()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def _exchange(self) -> None:
        whose = self._whose
        try:
            self._operations += whose.overdue()
            while self._operations:
                if self._mode is Mode.RESTORE:
                    operations, self._operations = whose.everything(), []
                else:
                    operations = self._operations[:MOST_OPERATIONS]
                    del self._operations[:MOST_OPERATIONS]
                mode, self._mode = self._mode, Mode.NEXT
                whose.sent()
                try:
                    whose.answered(await whose.send(mode, operations))
                except BatchLost:
                    whose.lost()
                except (RedisError, OSError, TimeoutError):
                    whose.unanswered()
                self._operations += whose.overdue()
        finally:
            self._task = None
            due_in_s = whose.due_in_s()
            if due_in_s is not None:
                self.linger(due_in_s)
