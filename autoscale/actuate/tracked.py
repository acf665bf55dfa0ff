"""Which drains of units that run elsewhere are under way? One task each, and none twice."""

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

_log = logging.getLogger(__name__)


class Drains:
    """Tasks by unit name."""

    def __init__(self) -> None:
        self._tasks: dict[str, asyncio.Task[Any]] = {}

    def __contains__(self, name: str) -> bool:
        """Whether a unit drains."""
        return name in self._tasks

    def begin(self, name: str, work: Coroutine[Any, Any, Any]) -> None:
        """Begin a drain unless it is under way."""
        if name in self._tasks:
            work.close()
            return
        task = self._tasks[name] = asyncio.create_task(work, name=f"drain {name}")
        task.add_done_callback(lambda done: self._ended(name, done))

    async def close(self) -> None:
        """Give them up: a replica that is marked drains on, and the next leader ends it."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def _ended(self, name: str, task: "asyncio.Task[Any]") -> None:
        self._tasks.pop(name, None)
        if not task.cancelled() and task.exception() is not None:
            _log.error("draining %s failed", name, exc_info=task.exception())
