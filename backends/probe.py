"""How is each replica right now? One watch per replica asks it; the registry is told.

Watches share nothing, so a replica that hangs delays no other.
"""

import asyncio

import aiohttp

from backends.clock import Clock, SystemClock
from backends.health import CallOutcome, Rules, Vitals
from backends.probe_watch import Pace, Watch
from backends.registry import Registry


class Prober:
    """Watches every replica of a registry; one per gateway process."""

    def __init__(
        self,
        registry: Registry,
        *,
        pace: Pace | None = None,
        rules: Rules | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._registry = registry
        self._pace = pace or Pace()
        self._rules = rules or Rules()
        self._clock = clock or SystemClock()
        self._watches: dict[str, Watch] = {}

    async def run(self) -> None:
        """Probe for ever; follows the registry's members."""
        # Idle connections end before SGLang's 5 s; no cookies, no limit that one host could use up.
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=4.0)
        jar = aiohttp.DummyCookieJar()
        async with (
            aiohttp.ClientSession(connector=connector, cookie_jar=jar) as session,
            asyncio.TaskGroup() as tasks,
        ):
            running: dict[str, asyncio.Task[None]] = {}
            while True:
                self._follow(session, tasks, running)
                await self._registry.changed()

    def report(self, replica_id: str, outcome: CallOutcome) -> None:
        """Take in how a call went; ids that are not watched are ignored."""
        watch = self._watches.get(replica_id)
        if watch is not None:
            watch.report(outcome)

    def vitals(self, replica_id: str) -> Vitals | None:
        """Give all that is remembered of a replica."""
        watch = self._watches.get(replica_id)
        return None if watch is None else watch.vitals

    def _follow(
        self,
        session: aiohttp.ClientSession,
        tasks: asyncio.TaskGroup,
        running: dict[str, asyncio.Task[None]],
    ) -> None:
        """Start a watch for each new replica, end those of replicas that left or moved."""
        pools = self._registry.fleet.pools.values()
        members = {s.replica.id: s.replica for pool in pools for s in pool.standings}
        left = {id_: w for id_, w in self._watches.items() if members.get(id_) != w.replica}
        for id_ in left:
            running.pop(id_).cancel()
            del self._watches[id_]
        for id_, replica in members.items():
            if id_ in self._watches:
                continue
            watch = Watch(replica, self._registry, session, self._pace, self._rules, self._clock)
            before = left.get(id_)
            if before is not None and before.replica.url == replica.url:
                watch.vitals = before.vitals  # the same server under another description
            self._watches[id_] = watch
            running[id_] = tasks.create_task(watch.run(), name=f"watch {id_}")
