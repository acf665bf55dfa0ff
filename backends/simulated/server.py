"""How do simulated replicas come to serve, and how do they stop?"""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from aiohttp import web

from backends.clock import Clock, SystemClock
from backends.simulated.app import create_app
from backends.simulated.replica import SimulatedReplica
from backends.simulated.settings import SimulatedSettings

_BACKLOG = 2048
_CLOSE_S = 0.1  # connections get this long when the server ends; a drain comes before it


@asynccontextmanager
async def serve_replicas(
    settings: SimulatedSettings, *, clock: Clock | None = None
) -> AsyncIterator[tuple[SimulatedReplica, ...]]:
    """Serve replicas on ports of their own while the block runs; OSError where a port is taken.

    The replicas' `faults` may be changed meanwhile, and `driver.core` holds what their engines do.
    """
    clock = clock or SystemClock()
    async with AsyncExitStack() as stack:
        replicas = []
        for i in range(settings.replicas):
            replica = SimulatedReplica(settings, clock)
            port = settings.port + i if settings.port else 0
            await stack.enter_async_context(_listening(replica, port))
            replicas.append(replica)
        yield tuple(replicas)


@asynccontextmanager
async def serve(
    settings: SimulatedSettings, *, clock: Clock | None = None
) -> AsyncIterator[tuple[str, ...]]:
    """Serve replicas while the block runs; give their base URLs."""
    async with serve_replicas(settings, clock=clock) as replicas:
        yield tuple(replica.url for replica in replicas)


async def drain(replicas: tuple[SimulatedReplica, ...]) -> None:
    """Answer 503 on /health and /ready and wait until every call has ended; like SGLang, for
    ever if need be.
    """
    for replica in replicas:
        replica.draining = True
    while busy := [replica for replica in replicas if replica.live_calls]:
        await busy[0].until_idle()


@asynccontextmanager
async def _listening(replica: SimulatedReplica, port: int) -> AsyncIterator[None]:
    settings = replica.settings
    runner = web.AppRunner(
        create_app(replica),
        access_log=None,
        handler_cancellation=True,  # a caller who leaves is known at once
        keepalive_timeout=settings.keep_alive_s,
        shutdown_timeout=_CLOSE_S,
    )
    await runner.setup()
    try:
        site = web.TCPSite(runner, settings.host, port, backlog=_BACKLOG)
        await site.start()
        replica.url = f"http://{settings.host}:{runner.addresses[0][1]}"
        yield
    finally:
        replica.close()
        await runner.cleanup()
