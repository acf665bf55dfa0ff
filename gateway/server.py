"""How does one gateway process begin, say that it serves, drain, and end?"""

import asyncio
import contextlib
import signal
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from typing import Any

import structlog
import uvicorn
from fastapi import FastAPI
from redis.exceptions import RedisError

from backends.fleet import HealthState
from backends.store import connect
from backends.store_schema import OLDEST, check_schema
from gateway.api.admin import admin_app
from gateway.api.admin_autoscale import autoscale_routes
from gateway.api.admin_jobs import job_routes
from gateway.api.explanations import explanation_routes
from gateway.api.health import count
from gateway.api.health import router as probes
from gateway.api.reload import reload_routes
from gateway.app import create_app, services_for
from gateway.audit import Audit
from gateway.control import WorkerEnd
from gateway.listeners import Bound, Listeners, bound_to, listeners_of
from gateway.middleware import Forwarded, open_to_pages
from gateway.process import allow_open_files, signals_end, spare_the_collector
from gateway.protocol import GatewayProtocol, protocol_class
from gateway.reload import Reloader, server_context
from gateway.services import Services
from gateway.settings import Settings
from gateway.telemetry import set_up_logs

BACKLOG = 2048
READY_POLL_S = 0.05
# A caller who has just sent a request on an idle connection would see it break. Meanwhile such a
# request is answered: 503, and that the connection closes.
LINGER_S = 0.5
FIRST_LOOK_S = 3.0  # a probe that nobody answers takes 2


Together = Callable[[Callable[[], bytes]], WorkerEnd]


async def serve(
    settings: Settings,
    *,
    redis_url: str,
    on_ready: Callable[[Bound], None] | None = None,
    stop: asyncio.Event | None = None,
    listeners: Listeners | None = None,
    together: Together | None = None,
    again: Callable[[], Settings] | None = None,
) -> int:
    """Serve until told to stop; give the process's exit status.

    With `stop` None SIGTERM and SIGINT are ours: the first drains, the second ends at once.
    `listeners` None: they are made here. `together` is given by one process of several: it takes
    what counts and gives what speaks with the others. `again` reads the settings a second time, for
    SIGHUP and POST /admin/reload.
    Raises WrongSchema, AuditFailed, and ConfigError for a certificate that cannot be used.
    """
    set_up_logs(settings.telemetry.log_level, settings.telemetry.log_format)
    spare_the_collector()
    allow_open_files()
    async with AsyncExitStack() as stack:
        redis = connect(redis_url)
        stack.push_async_callback(redis.aclose)
        schema = await check_schema(redis) or OLDEST
        services = await stack.enter_async_context(services_for(settings, redis, schema=schema))
        await Audit(settings.audit_file, services.clock).check()
        reloader = Reloader(services, again, server_context(settings))
        apps = create_app(services, docs=settings.docs), admin_of(services, reloader)
        if together is not None:
            end = together(lambda: count(services))
            services.background.start(end.run(), "workers")
            for app in apps:
                app.state.gather = end.gather
        public = _Server(_config(settings, open_to_pages(apps[0], settings.cors.origins)))
        admin = _Server(_config(settings, apps[1]))
        public.context = reloader.context
        sockets = listeners_of(settings, stack) if listeners is None else listeners
        bound = bound_to(settings, sockets.public, sockets.admin)
        ended = asyncio.Event() if stop is None else stop
        if stop is None:
            stack.enter_context(signals_end(ended))
        if again is not None:
            stack.enter_context(_hangup(services, reloader))
        await first_look(services, FIRST_LOOK_S)
        await stack.enter_async_context(_running(public, sockets.public))
        await stack.enter_async_context(_running(admin, sockets.admin))
        if on_ready is not None:
            on_ready(bound)
        structlog.get_logger("sluice").info("serving", url=bound.base_url, admin=bound.admin_url)
        await ended.wait()
        await drain(services, public, settings.timeouts.drain_s)
    return 0


async def first_look(services: Services, within_s: float) -> None:
    """Wait until each replica has been probed once, `within_s` at the most.

    Who listens before that refuses calls that another gateway would have served.
    """
    registry = services.registry
    with contextlib.suppress(TimeoutError, RedisError):
        async with asyncio.timeout(within_s):
            await registry.refresh()
            while any(
                each.health.state is HealthState.UNKNOWN
                for pool in registry.fleet.pools.values()
                for each in pool.standings
            ):
                await registry.changed()


async def drain(services: Services, server: "_Server", within_s: float) -> None:
    """Take nothing new, and wait until what runs has ended or `within_s` seconds are over."""
    log = structlog.get_logger("sluice")
    services.lifecycle.draining = True
    server.stop_listening()
    log.info("draining", in_flight=services.lifecycle.in_flight, at_most_s=within_s)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(within_s):
            if server.server_state.connections:
                await services.clock.sleep(LINGER_S)
                server.close_idle()
            while services.lifecycle.in_flight or services.responses.running:
                await services.clock.sleep(READY_POLL_S)
    log.info("drained", in_flight=services.lifecycle.in_flight)


@contextmanager
def _hangup(services: Services, reloader: Reloader) -> Iterator[None]:
    loop = asyncio.get_running_loop()

    def told() -> None:
        services.background.start(reloader.on_signal(), "reload")

    loop.add_signal_handler(signal.SIGHUP, told)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGHUP)


def admin_of(services: Services, reloader: Reloader) -> FastAPI:
    """Make the admin API of a gateway, with all that it has."""
    return admin_app(
        services,
        probes=probes,
        more=[
            explanation_routes(services.explanations),
            job_routes(services.jobs, services.clock),
            autoscale_routes(services.redis, services.clock),
            reload_routes(reloader),
        ],
    )


class _Server(uvicorn.Server):
    """uvicorn without its signals: the process decides when to end. `context`: its TLS."""

    context: ssl.SSLContext | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Uvicorn: listen."""
        self.config.ssl = self.context
        await super().startup(sockets)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals alone."""
        yield

    def stop_listening(self) -> None:
        """Take no new connection, and let each that is there have one more answer at most."""
        for server in self.servers:
            server.close()
        for connection in list(self.server_state.connections):
            if isinstance(connection, GatewayProtocol):
                connection.leave()

    def close_idle(self) -> None:
        """Close the connections that wait for a request."""
        for connection in list(self.server_state.connections):
            connection.shutdown()


@asynccontextmanager
async def _running(server: _Server, listener: socket.socket) -> AsyncIterator[None]:
    task = asyncio.create_task(server.serve([listener]))
    try:
        while not server.started:
            if task.done():
                await task
                raise RuntimeError("the HTTP server did not start")
            await asyncio.sleep(READY_POLL_S)
        yield
    finally:
        server.should_exit = server.force_exit = True
        await task


def _config(settings: Settings, app: Callable[..., Any]) -> uvicorn.Config:
    limits = settings.limits
    trusted = settings.forwarded.trusted
    return uvicorn.Config(
        Forwarded(app, trusted) if trusted else app,
        loop="none",
        http=protocol_class(
            header_bytes=limits.header_bytes,
            head_timeout_s=limits.head_timeout_s,
            most_connections=limits.connections,
        ),
        ws="none",
        lifespan="off",
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=False,
        backlog=BACKLOG,
        timeout_keep_alive=int(limits.keep_alive_s),
    )
