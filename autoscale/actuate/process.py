"""How are replicas run as processes of this machine?

Each unit is a task that starts a process, holds its leases and, told to, lets it drain: mark
draining -> routing stops -> nothing in flight -> leases given up -> SIGTERM -> hard deadline (that
order is `backends.tenure`'s).
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field, replace

from autoscale.actuate.unit import ActuationFailed, Unit, UnitState
from backends.clock import Clock, SystemClock
from backends.fleet import Replica
from backends.launch import LaunchFailed, LaunchSpec
from backends.tenure import serve_replica

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Launch:
    """What a unit of a pool is made of: a process, and the replicas that it serves.

    An empty `replicas` says that the process holds its own leases (as `sluice replica` does); then
    `ids` are theirs, and the process drains by itself on SIGTERM.
    """

    spec: LaunchSpec
    replicas: tuple[Replica, ...] = ()
    ids: tuple[str, ...] = ()


Recipe = Callable[[int], Launch]  # the unit's number -> what to launch


@dataclass(slots=True)
class _Run:
    unit: Unit
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    task: "asyncio.Task[None] | None" = None


class ProcessActuator:
    """Runs units as local processes; ends them all, drained, when its context is left."""

    def __init__(
        self,
        recipes: dict[str, Recipe],
        store_url: str,
        *,
        drain_within_s: float = 600.0,
        on_progress: Callable[[str], None] | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._recipes = recipes
        self._store_url = store_url
        self._drain_within_s = drain_within_s
        self._say = on_progress or _log.info
        self._clock = clock or SystemClock()
        self._runs: dict[str, _Run] = {}
        self._number = 0

    async def units(self, pool: str) -> Sequence[Unit]:
        """List the units; those that failed stay until they are discarded."""
        for name, run in list(self._runs.items()):
            gone = run.task is not None and run.task.done()
            if gone and run.unit.state is not UnitState.FAILED:
                del self._runs[name]
        return [run.unit for run in self._runs.values() if run.unit.pool == pool]

    async def start(self, pool: str, count: int) -> None:
        """Start processes."""
        recipe = self._recipes.get(pool)
        if recipe is None:
            raise ActuationFailed(f"nothing says how a replica of {pool} is started")
        for _ in range(count):
            self._number += 1
            launch = recipe(self._number)
            ids = launch.ids or tuple(r.id for r in launch.replicas)
            name = f"{pool}-{self._number}"
            unit = Unit(name, pool, UnitState.STARTING, self._clock.now(), replicas=ids)
            run = self._runs[name] = _Run(unit)
            run.task = asyncio.create_task(self._live(run, launch), name=f"unit {name}")

    async def discard(self, pool: str, names: Sequence[str]) -> None:
        """End pending or stuck units at once; those whose processes end meanwhile drain."""
        for run in self._named(pool, names):
            run.unit = replace(run.unit, state=UnitState.DRAINING)
            if run.task is not None:
                run.task.cancel()

    async def drain(self, pool: str, names: Sequence[str]) -> None:
        """Let units finish what they have."""
        for run in self._named(pool, names):
            run.unit = replace(run.unit, state=UnitState.DRAINING)
            run.stop.set()

    def kill(self) -> None:
        """End all at once, calls or not."""
        for run in self._runs.values():
            if run.task is not None:
                run.task.cancel()

    async def close(self) -> None:
        """Drain all and wait for their ends."""
        for run in self._runs.values():
            run.stop.set()
        tasks = [run.task for run in self._runs.values() if run.task is not None]
        if tasks:
            await asyncio.wait(tasks)

    def _named(self, pool: str, names: Sequence[str]) -> list[_Run]:
        wanted = set(names)
        return [r for n, r in self._runs.items() if n in wanted and r.unit.pool == pool]

    async def _live(self, run: _Run, launch: Launch) -> None:
        """Be one unit, from its start to its end."""

        def serves() -> None:
            run.unit = replace(run.unit, state=UnitState.SERVING, served_at=self._clock.now())

        try:
            await serve_replica(
                launch.spec,
                launch.replicas,
                self._store_url,
                stop=run.stop,
                drain_within_s=self._drain_within_s,
                on_progress=self._say,
                on_ready=serves,
            )
        except LaunchFailed as error:
            if run.unit.state is not UnitState.DRAINING:
                run.unit = replace(run.unit, state=UnitState.FAILED, why=str(error)[:500])


@contextlib.asynccontextmanager
async def processes(
    recipes: dict[str, Recipe],
    store_url: str,
    *,
    drain_within_s: float = 600.0,
    on_progress: Callable[[str], None] | None = None,
) -> AsyncIterator[ProcessActuator]:
    """Run local units; on leaving all are drained and ended. Cancelled meanwhile: ended at once."""
    actuator = ProcessActuator(
        recipes, store_url, drain_within_s=drain_within_s, on_progress=on_progress
    )
    try:
        yield actuator
    finally:
        try:
            await actuator.close()
        finally:
            actuator.kill()
