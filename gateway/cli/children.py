"""How do the replica processes of `sluice up` keep running until it ends?"""

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Self

from backends.clock import Clock
from backends.launch import Launched, LaunchFailed, LaunchSpec, launched

FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 30.0
STEADY_S = 60.0  # who ran this long starts again without a growing pause


class Children:
    """Local processes, each started again when it ends by itself; all end when the block does."""

    def __init__(self, say: Callable[[str], None], clock: Clock) -> None:
        self._say = say
        self._clock = clock
        self._alive: set[Launched] = set()
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for task in self._tasks:
            task.cancel()
        while pending := [task for task in self._tasks if not task.done()]:
            try:
                await asyncio.wait(pending)
            except asyncio.CancelledError:  # a second signal: `kill` has run
                continue

    async def start(self, spec: LaunchSpec) -> None:
        """Start a process and wait until it serves; raises LaunchFailed."""
        first: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._tasks.append(asyncio.create_task(self._keep(spec, first), name=spec.name))
        await first

    def kill(self) -> None:
        """End all of them now, those that still start within seconds."""
        for process in self._alive:
            process.kill()
        for task in self._tasks:
            task.cancel()

    async def _keep(self, spec: LaunchSpec, first: asyncio.Future[None]) -> None:
        pause_s = FIRST_PAUSE_S
        while True:
            began = self._clock.monotonic()
            try:
                status, why = await self._run(spec, first)
                if status == 0:  # an operator has removed it
                    self._say(f"{spec.name} has left")
                    return
            except LaunchFailed as error:
                if not first.done():
                    first.set_exception(error)
                    return
                why = str(error)
            if self._clock.monotonic() - began > STEADY_S:
                pause_s = FIRST_PAUSE_S
            self._say(f"{why}\n{spec.name}: starting it again in {pause_s:.1f} s")
            await self._clock.sleep(pause_s)
            pause_s = min(pause_s * 2, LONGEST_PAUSE_S)

    def _progress(self, line: str) -> None:
        """Say how long it takes, without the line of its log that follows."""
        self._say(line.split(". ", 1)[0])

    async def _run(self, spec: LaunchSpec, first: asyncio.Future[None]) -> tuple[int, str]:
        """Run it until it ends; give its status and what is to be said of that."""
        async with launched(spec, on_progress=self._progress, clock=self._clock) as process:
            self._alive.add(process)
            try:
                if not first.done():
                    first.set_result(None)
                status = await process.wait()
            finally:
                self._alive.discard(process)
        return status, (
            f"{spec.name} ended with status {status}; its log ({spec.log_path}) ends:\n"
            f"{process.log_tail(5)}"
        )
