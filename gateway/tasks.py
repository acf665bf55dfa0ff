"""Who keeps the tasks that outlive a request, and who hears when one of them dies?"""

import asyncio
from collections.abc import Coroutine
from types import TracebackType
from typing import Any

import structlog


class Background:
    """Tasks of one process: begun by name, cancelled and awaited at the end, deaths logged."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    async def __aenter__(self) -> "Background":
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def start(self, work: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        """Run something in the background."""
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    @property
    def count(self) -> int:
        """How many tasks run now."""
        return len(self._tasks)

    def _ended(self, task: "asyncio.Task[Any]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            structlog.get_logger("sluice").error(
                "background task died", task=task.get_name(), exc_info=error
            )
