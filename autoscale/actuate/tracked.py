"""Which drains of units that run elsewhere are under way? One task each, and none twice."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import Any

from redis.asyncio import Redis

from autoscale.actuate.unit import Unit
from autoscale.drain import DrainPace, drained
from backends.clock import Clock

_log = logging.getLogger(__name__)


class Drains:
    """Tasks by unit name."""

    def __init__(self, store: Redis, *, clock: Clock, pace: DrainPace | None) -> None:
        self._store = store
        self._clock = clock
        self._pace = pace
        self._tasks: dict[str, asyncio.Task[Any]] = {}

    def __contains__(self, name: str) -> bool:
        """Whether a unit drains."""
        return name in self._tasks

    def begin(
        self, units: Iterable[Unit], names: Iterable[str], end: Callable[[str], Awaitable[None]]
    ) -> None:
        """Drain the named units, and `end` each; one that drains already, or is gone, is left."""
        known = {unit.name: unit for unit in units}
        for name in names:
            if name in known and name not in self._tasks:
                work = drained(
                    self._store,
                    known[name].replicas,
                    partial(end, name),
                    clock=self._clock,
                    pace=self._pace,
                )
                task = self._tasks[name] = asyncio.create_task(work, name=f"drain {name}")
                task.add_done_callback(partial(self._ended, name))

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
