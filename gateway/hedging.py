"""Is a second attempt worth while, and which of two answers does the caller get?

For classes that hedge (off by default), a stream whose first byte is later than nineteen in twenty
of its class lately is asked of another replica too, within the budget of retries, only while nobody
waits for a slot and no more than 70 % of them are taken: above that a second attempt costs others
more than it gains. Whose first frame comes first has the caller; the other is aborted at once.
"""

import asyncio
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from gateway.call import Receipt
from gateway.retry_budget import RetryBudget
from gateway.sink import Flow, Header, Sink

QUANTILE = 0.95
CALLS, LEAST_CALLS = 256, 32  # that the quantile is of; below the least nothing is hedged
MOST_LOAD = 0.7  # of the slots of a pool for the class, the late call's own included
LEAST_S = 0.02  # no answer is late before this

Attempt = Callable[[Sink, Receipt], Coroutine[Any, Any, None]]
Tasks = list[asyncio.Task[None]]


class Delays:
    """The 95th percentile of the seconds to a first byte, over the last 256 streams."""

    __slots__ = ("_in_order", "_sorted")

    def __init__(self) -> None:
        self._in_order: deque[float] = deque()
        self._sorted: list[float] = []

    def observe(self, seconds: float) -> None:
        """Take in one stream's; of one that was given up, what it had taken by then."""
        self._in_order.append(seconds)
        insort(self._sorted, seconds)
        if len(self._in_order) > CALLS:
            del self._sorted[bisect_left(self._sorted, self._in_order.popleft())]

    def late_s(self) -> float | None:
        """Give when a first byte is late; None until 32 have been seen."""
        count = len(self._sorted)
        if count < LEAST_CALLS:
            return None
        return max(self._sorted[min(int(QUANTILE * count), count - 1)], LEAST_S)


class _Stage:
    """One caller's sink, which belongs to the attempt that starts first."""

    def __init__(self, sink: Sink) -> None:
        self.sink = sink
        self.taken: asyncio.Future[_Side] = asyncio.get_running_loop().create_future()


class _Side:
    """The sink as one attempt sees it."""

    def __init__(self, stage: _Stage, receipt: Receipt) -> None:
        self._stage = stage
        self._sink = stage.sink
        self.receipt = receipt
        self.started = False

    async def start(self, status: int, headers: Sequence[Header]) -> None:
        """Take the caller, or wait to be cancelled where the other has it."""
        taken = self._stage.taken
        if taken.done():
            await asyncio.get_running_loop().create_future()
        taken.set_result(self)
        self.started = True
        await self._sink.start(status, headers)

    def feed_from(self, flow: Flow | None) -> None:
        """Name the source to hold back."""
        if self.started:
            self._sink.feed_from(flow)

    def write(self, data: bytes) -> None:
        """Take a piece of the body."""
        self._sink.write(data)

    async def finish(self, data: bytes = b"") -> None:
        """End the answer."""
        await self._sink.finish(data)


class Hedger:
    """Runs attempts, and a second one where the first is late."""

    def __init__(self, retries: RetryBudget) -> None:
        self._retries = retries
        self._delays: dict[tuple[str, str], Delays] = {}  # by model and class: few

    async def run(
        self,
        key: tuple[str, str],
        sink: Sink,
        receipt: Receipt,
        first: Attempt,
        second: Attempt,
        *,
        may_hedge: Callable[[], bool],
        happened: Callable[[str], None],
    ) -> None:
        """Let `first` answer, or `second` where that is faster; the winner's facts go to `receipt`.

        Raises what the attempt that has the caller raises; what `first` raises where none has.
        When it returns, both attempts have ended, whatever came of them.
        """
        loop = asyncio.get_running_loop()
        delays = self._delays.setdefault(key, Delays())
        stage, began = _Stage(sink), loop.time()
        sides = [_Side(stage, Receipt(receipt.call))]
        tasks: Tasks = [asyncio.create_task(first(sides[0], sides[0].receipt))]
        try:
            waited_for: set[asyncio.Future[Any]] = {tasks[0], stage.taken}
            await asyncio.wait(
                waited_for,
                timeout=delays.late_s(),
                return_when=asyncio.FIRST_COMPLETED,
            )
            is_late = not tasks[0].done() and not stage.taken.done()
            if is_late and may_hedge() and self._retries.spend():
                happened(f"hedged: no first byte after {(loop.time() - began) * 1e3:.0f} ms")
                sides.append(_Side(stage, Receipt(receipt.call)))
                tasks.append(asyncio.create_task(second(sides[1], sides[1].receipt)))
            winner = await self._winner(stage, sides, tasks)
            if sides[winner].started:
                delays.observe(loop.time() - began)
            await self._end(tasks, winner)
            if len(tasks) > 1 and sides[winner].started:
                happened(f"the {('first', 'second')[winner]} attempt was faster")
            await tasks[winner]
        finally:
            await self._end(tasks, None)
            taken = stage.taken.result() if stage.taken.done() else sides[0]
            _adopt(receipt, taken.receipt)
            if not stage.taken.done():
                stage.taken.cancel()

    async def _winner(self, stage: _Stage, sides: list[_Side], tasks: Tasks) -> int:
        """Wait until an attempt has the caller, or ended well, or all have failed."""
        left: set[asyncio.Future[Any]] = set(tasks)
        while left and not stage.taken.done():
            both = {*left, stage.taken}
            done, both = await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            left = both - {stage.taken}
            for index, task in enumerate(tasks):
                if task in done and not task.cancelled() and task.exception() is None:
                    return index
        return sides.index(stage.taken.result()) if stage.taken.done() else 0

    async def _end(self, tasks: Tasks, but: int | None) -> None:
        losers = [task for index, task in enumerate(tasks) if index != but]
        for task in losers:
            task.cancel()
        await asyncio.gather(*losers, return_exceptions=True)


def _adopt(receipt: Receipt, winner: Receipt) -> None:
    """Take over what the attempt that answered has noted."""
    for name in (
        "replica_id",
        "status",
        "late",
        "first_byte",
        "last_byte",
        "usage",
        "finish_reasons",
    ):
        setattr(receipt, name, getattr(winner, name))
