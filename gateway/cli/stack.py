"""In which order does `sluice up` begin, and in which does it end?

store -> key -> gateway and replicas side by side -> told to the world -> a signal -> the gateway
drains -> replicas leave -> the store stops. Every process has a warden, so that even a kill -9 of
this one leaves nothing behind.
"""

import asyncio
import errno
import os
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

from autoscale.config import FleetConfig
from backends.clock import Clock, SystemClock
from backends.launch import LaunchFailed, LaunchSpec
from backends.store import Store, connect, open_store
from gateway.cli.announce import announcement
from gateway.cli.children import Children
from gateway.cli.data_dir import DataDir, Ready, read_secret, write_private, write_ready
from gateway.cli.failure import CommandFailed
from gateway.cli.interrupts import Interrupts
from gateway.cli.local_fleet import Wanted, plan
from gateway.cli.options import say
from gateway.cli.readiness import OWN_WITHIN_S, until_ready
from gateway.keys import Grant, KeyStore
from gateway.listeners import Bound
from gateway.settings import Settings
from gateway.workers import serve_all

NO_KEY = "not-needed"


@dataclass(frozen=True, slots=True)
class Stack:
    """What is to run here. `settings` hold an admin key."""

    settings: Settings
    data: DataDir
    wanted: Wanted
    ready_file: Path | None = None
    fleet: FleetConfig | None = None  # what an autoscaler scales here
    clock: Clock = field(default_factory=SystemClock)

    async def run(self, interrupts: Interrupts) -> int:
        """Run it until a signal; give the exit status.

        Raises StoreFailed, LaunchFailed or CommandFailed where a part does not start.
        """
        most_s = self.settings.timeouts.drain_s
        interrupts.say = lambda: say(
            f"Ending: calls that run have up to {most_s:.0f} s; Ctrl-C once more ends all at once."
        )
        async with AsyncExitStack() as stack:
            store = await stack.enter_async_context(
                open_store(self.settings.redis_url, self.data.store)
            )
            key = NO_KEY if self.settings.no_auth else await ensure_key(store.url, self.data)
            for each in self._ready_files():
                stack.callback(each.unlink, missing_ok=True)
            children = await stack.enter_async_context(Children(say, self.clock))
            interrupts.at_once.insert(0, children.kill)
            if self.fleet is not None:
                from gateway.cli.scaled import scaled  # its packages are an extra

                classes = self.settings.classes_by_name()
                actuator = await stack.enter_async_context(
                    scaled(self.fleet, self.wanted, self.data, store.url, classes)
                )
                interrupts.at_once.insert(0, actuator.kill)
            return await self._serve(store, key, children, interrupts)

    async def _serve(
        self, store: Store, key: str, children: Children, interrupts: Interrupts
    ) -> int:
        """Serve, and start the replicas meanwhile; the end of the gateway ends the start."""
        bound: asyncio.Future[Bound] = asyncio.get_running_loop().create_future()
        serving = asyncio.create_task(
            serve_all(
                self.settings,
                redis_url=store.url,
                on_ready=bound.set_result,
                stop=interrupts.stop,
            ),
            name="gateway",
        )
        starting = asyncio.create_task(self._start(store, key, children, bound), name="start")
        try:
            await asyncio.wait({serving, starting}, return_when=asyncio.FIRST_COMPLETED)
            if starting.done() and starting.exception() is not None:
                interrupts.stop.set()  # nobody calls yet, so the gateway ends at once
                await serving
                starting.result()
            return await serving
        except OSError as error:
            raise CommandFailed(_explained(error, self.settings)) from error
        finally:
            starting.cancel()
            serving.cancel()
            await asyncio.wait({starting, serving})

    async def _start(
        self, store: Store, key: str, children: Children, bound: "asyncio.Future[Bound]"
    ) -> None:
        """Start the replicas, wait until calls can go to them, tell the world."""
        where = await bound  # a port that is taken is told before an engine has loaded
        fleet = plan(self.wanted, self.data, store.url)
        for spec in fleet.specs:
            say(f"{spec.name}: starting")
        await asyncio.gather(*(children.start(spec) for spec in fleet.specs))
        secret = self.settings.admin_key
        admin_key = "" if secret is None else secret.get_secret_value()
        first = {} if self.fleet is None else self.fleet.least
        within_s = OWN_WITHIN_S
        if self.fleet is not None:
            within_s += 2.0 * max(pool.cold_start_s for pool in self.fleet.pools)
        served = await until_ready(
            where.admin_url, admin_key, fleet.urls,
            say=say, clock=self.clock, least=first, within_s=within_s,
        )  # fmt: skip
        ready = Ready(
            base_url=where.base_url,
            api_key=key,
            admin_url=where.admin_url,
            admin_key=admin_key,
            models=tuple(sorted({*served, *self.settings.models})),
            redis_url=store.url,
            metrics_url=where.metrics_url,
            pid=os.getpid(),
        )
        for each in self._ready_files():
            write_ready(each, ready)
        print(announcement(ready, self.data, later=fleet.later_models), flush=True)
        await asyncio.gather(*(self._start_later(each, children) for each in fleet.later))

    async def _start_later(self, spec: LaunchSpec, children: Children) -> None:
        """Start what nobody waits for; that it does not start is told, and ends nothing."""
        say(f"{spec.name}: starting")
        try:
            await children.start(spec)
        except LaunchFailed as error:
            say(str(error))

    def _ready_files(self) -> list[Path]:
        """Name the files that are there while it serves."""
        return [self.data.running, *([self.ready_file] if self.ready_file is not None else [])]


async def ensure_key(store_url: str, data: DataDir) -> str:
    """Give the key of this data directory, good in this store; made the first time."""
    redis = connect(store_url)
    try:
        keys = KeyStore(redis, SystemClock())
        grant = Grant(name="sluice up")
        if (kept := read_secret(data.api_key)) is not None:
            record = await keys.register(kept, grant)
            if record.revoked_at is None and record.matches(kept):
                return kept
        key, _ = await keys.create(grant)
        write_private(data.api_key, key + "\n")
        return key
    finally:
        await redis.aclose()


def _explained(error: OSError, settings: Settings) -> str:
    if error.errno != errno.EADDRINUSE:
        return str(error)
    return (
        f"{settings.host} port {settings.port} or {settings.admin_host} port"
        f" {settings.admin_port} is in use; --port 0 picks free ones"
    )
