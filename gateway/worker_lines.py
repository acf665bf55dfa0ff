"""Where do the rows of a batch come from, how many run at once, and where do their lines go?"""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from types import TracebackType
from typing import Any, Self

from redis.exceptions import RedisError

from gateway.artifacts import Artifacts
from gateway.jobs.batches import Kept, RowStore, Tokens, is_set
from gateway.wire.batches import LineError, line_of
from gateway.worker_hold import Hold
from gateway.worker_rows import Answered

MOST_LINE_BYTES = 16 * 1024 * 1024
BOM = b"\xef\xbb\xbf"
MOVE_LINES = 500
MOVE_BYTES = 4 * 1024 * 1024
STORE_PAUSE_S = 0.5


class Lost(Exception):
    """The batch is another worker's now."""


class Lines:
    """The finished rows of one batch in this worker."""

    def __init__(self, hold: Hold, rows: RowStore, artifacts: Artifacts) -> None:
        self._hold = hold
        self._rows = rows
        self._artifacts = artifacts
        self._bits = b""
        self._done: set[int] = set()
        self._waiting: dict[str, bytes] = {}
        self._bytes = 0
        self._number = 0
        self._moving = asyncio.Lock()

    async def open(self) -> None:
        """Take over what an earlier worker has kept."""
        self._bits = await persist(lambda: self._rows.finished(self._hold.claim))
        self._waiting = await persist(lambda: self._rows.lines(self._hold.claim))
        self._bytes = sum(map(len, self._waiting.values()))

    def is_finished(self, index: int) -> bool:
        """Whether a row was finished, by whomever."""
        return index in self._done or is_set(self._bits, index)

    async def keep(self, index: int, custom_id: str, answered: Answered) -> None:
        """Count a row."""
        line = line_of(answered.request_id, custom_id, answered.status, answered.body)
        await self._keep(index, line, done_well=answered.done_well, tokens=answered.tokens)

    async def keep_unrun(self, index: int, custom_id: str, why: LineError) -> None:
        """Count a row that was never run as failed."""
        line = line_of(f"req_{index}", custom_id, 0, None, failure=why)
        await self._keep(index, line, done_well=False, tokens=Tokens())

    async def _keep(self, index: int, line: bytes, *, done_well: bool, tokens: Tokens) -> None:
        claim = self._hold.claim
        kept: Kept = await persist(
            lambda: self._rows.keep(claim, index, line, done_well=done_well, tokens=tokens)
        )
        if kept is Kept.LOST:
            raise Lost
        self._done.add(index)
        # Known before: our own write whose answer was lost.
        self._waiting[f"{int(done_well)}{index}"] = line
        self._bytes += len(line)
        if len(self._waiting) >= MOVE_LINES or self._bytes >= MOVE_BYTES:
            await self.move()

    async def move(self) -> None:
        """Move the lines that wait into artifacts."""
        async with self._moving:
            if not self._waiting:
                return
            claim = self._hold.claim
            moving, self._waiting, self._bytes = self._waiting, {}, 0
            self._number += 1
            made = {}
            for which, mark in (("out", "1"), ("err", "0")):
                names = [name for name in moving if name[0] == mark]
                if names:
                    path = f"batches/{claim.job.id}/{claim.fence}/{which}-{self._number}.jsonl"
                    made[which] = await self._write(path, (moving[name] for name in names))
            if not await persist(lambda: self._rows.move(claim, made, list(moving))):
                raise Lost

    async def _write(self, path: str, lines: Iterable[bytes]) -> str:
        draft = self._artifacts.draft(path)
        try:
            for line in lines:
                await draft.write(line)
            return (await draft.commit()).name
        finally:
            await draft.abandon()


async def lines_of(artifacts: Artifacts, name: str) -> AsyncIterator[tuple[int, bytes]]:
    """Give the lines of an artifact that are not blank, numbered from 1 without the blank ones."""
    number, rest = 0, b""
    async for piece in artifacts.read(name):
        *whole, rest = (rest + piece).split(b"\n")
        if len(rest) > MOST_LINE_BYTES:
            rest = rest[: MOST_LINE_BYTES + 1]  # it will not be valid JSON, which is then told
        for line in whole:
            if line.strip():
                number += 1
                yield number, line.removeprefix(BOM) if number == 1 else line
    if rest.strip():
        yield number + 1, rest if number else rest.removeprefix(BOM)


class Crew:
    """Runs up to `at_most` rows at once; starts nothing more when the end is wanted."""

    def __init__(self, at_most: int, told: asyncio.Event) -> None:
        self._at_most = at_most
        self._told = told
        self._tasks: set[asyncio.Task[None]] = set()
        self._waits: asyncio.Task[bool] | None = None
        self._fault: BaseException | None = None

    async def __aenter__(self) -> Self:
        self._waits = asyncio.create_task(self._told.wait())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        tasks = [*self._tasks, *([self._waits] if self._waits is not None else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def start(self, work: Callable[[], Coroutine[Any, Any, None]]) -> bool:
        """Start a row when there is room; False when nothing is to be started any more."""
        await self._until(self._at_most - 1)
        if self._told.is_set() or self._fault is not None:
            return False
        task = asyncio.create_task(work(), name="row")
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return True

    async def finish(self) -> None:
        """Wait for all rows, unless the end is wanted; raises what one of them raised."""
        await self._until(0)
        if self._fault is not None:
            raise self._fault

    async def _until(self, at_most: int) -> None:
        while len(self._tasks) > at_most and self._fault is None and not self._told.is_set():
            waits = {*self._tasks, *({self._waits} if self._waits is not None else ())}
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._fault = error


async def persist(write: Any) -> Any:
    """Repeat a write until the store has it."""
    while True:
        try:
            return await write()
        except (RedisError, OSError):
            await asyncio.sleep(STORE_PAUSE_S)
