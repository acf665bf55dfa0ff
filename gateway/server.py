"""How does one gateway process begin, say that it serves, drain, and end?"""

import asyncio
import contextlib
import gc
import resource
import signal
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass

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
from gateway.middleware import Forwarded
from gateway.protocol import protocol_class
from gateway.reload import Reloader, server_context
from gateway.services import Services
from gateway.settings import Settings
from gateway.telemetry import set_up_logs

BACKLOG = 2048
READY_POLL_S = 0.05
FIRST_LOOK_S = 3.0  # a probe that nobody answers takes 2


@dataclass(frozen=True, slots=True)
class Bound:
    """Where a gateway listens."""

    base_url: str
    admin_url: str
    metrics_url: str


@dataclass(frozen=True, slots=True)
class Listeners:
    """The bound sockets of one process."""

    public: socket.socket
    admin: socket.socket


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
        public, admin = (_Server(_config(settings, app)) for app in apps)
        public.context = reloader.context
        sockets = _own(settings, stack) if listeners is None else listeners
        bound = bound_to(settings, sockets.public, sockets.admin)
        ended = asyncio.Event() if stop is None else stop
        if stop is None:
            stack.enter_context(_signals(ended))
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
        """Take no new connection, and close those that wait for a request."""
        for server in self.servers:
            server.close()
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


def _config(settings: Settings, app: FastAPI) -> uvicorn.Config:
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


def _own(settings: Settings, stack: AsyncExitStack) -> Listeners:
    public = listen(settings.host, settings.port)
    stack.callback(public.close)
    admin = listen(settings.admin_host, settings.admin_port)
    stack.callback(admin.close)
    return Listeners(public, admin)


def bound_to(settings: Settings, public: socket.socket, admin: socket.socket) -> Bound:
    """Say where these sockets listen."""
    scheme = "http" if settings.tls.cert_file is None else "https"
    at = _url(settings.host, public.getsockname()[1], scheme)
    admin_at = _url(settings.admin_host, admin.getsockname()[1])
    return Bound(f"{at}/v1", admin_at, f"{at}/metrics")


def listen(host: str, port: int, *, shared: bool = False) -> socket.socket:
    """Bind a socket; `shared`: others of this user may bind to the same port."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if shared:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listener.bind((host, port))
    return listener


def allow_open_files() -> None:
    """Raise the soft limit on open files to the hard one: a stream takes two."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError):
        return  # a system that does not take its own limit: the soft one stays


def spare_the_collector() -> None:
    """Let the cyclic garbage collector look at less, and less often.

    What is there when a process begins stays to its end; calls and streams make few cycles. The
    defaults walk all open streams for every 700 objects, which is a pause for each of them.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


def _url(host: str, port: int, scheme: str = "http") -> str:
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, host)  # noqa: S104 shown, not bound
    return (
        f"{scheme}://{f'[{shown}]' if ':' in shown and not shown.startswith('[') else shown}:{port}"
    )


@contextmanager
def _signals(ended: asyncio.Event) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    main = asyncio.current_task()

    def told() -> None:
        if ended.is_set() and main is not None:
            main.cancel()
        ended.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told)
    try:
        yield
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
