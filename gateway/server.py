"""How does one gateway process begin, say that it serves, drain, and end?"""

import asyncio
import contextlib
import signal
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass

import structlog
import uvicorn
from fastapi import FastAPI

from backends.store import connect
from gateway.api.admin import admin_app
from gateway.api.admin_jobs import job_routes
from gateway.api.explanations import explanation_routes
from gateway.api.health import router as probes
from gateway.app import create_app, services_for
from gateway.protocol import protocol_class
from gateway.services import Services
from gateway.settings import Settings
from gateway.telemetry import set_up_logs

BACKLOG = 2048
READY_POLL_S = 0.05


@dataclass(frozen=True, slots=True)
class Bound:
    """Where a gateway listens."""

    base_url: str
    admin_url: str
    metrics_url: str


async def serve(
    settings: Settings,
    *,
    redis_url: str,
    on_ready: Callable[[Bound], None] | None = None,
    stop: asyncio.Event | None = None,
) -> int:
    """Serve until told to stop; give the process's exit status.

    With `stop` None SIGTERM and SIGINT are ours: the first drains, the second ends at once.
    """
    set_up_logs(settings.telemetry.log_level, settings.telemetry.log_format)
    async with AsyncExitStack() as stack:
        redis = connect(redis_url)
        stack.push_async_callback(redis.aclose)
        services = await stack.enter_async_context(services_for(settings, redis))
        public = _Server(_config(settings, create_app(services, docs=settings.docs)))
        admin = _Server(_config(settings, _admin(services)))
        bound, sockets = _bind(settings, stack)
        ended = asyncio.Event() if stop is None else stop
        if stop is None:
            stack.enter_context(_signals(ended))
        await stack.enter_async_context(_running(public, sockets[0]))
        await stack.enter_async_context(_running(admin, sockets[1]))
        if on_ready is not None:
            on_ready(bound)
        structlog.get_logger("sluice").info("serving", url=bound.base_url, admin=bound.admin_url)
        await ended.wait()
        await drain(services, public, settings.timeouts.drain_s)
    return 0


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


def _admin(services: Services) -> FastAPI:
    return admin_app(
        services,
        probes=probes,
        more=[
            explanation_routes(services.explanations),
            job_routes(services.jobs, services.clock),
        ],
    )


class _Server(uvicorn.Server):
    """uvicorn without its signals: the process decides when to end."""

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
    return uvicorn.Config(
        app,
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


def _bind(settings: Settings, stack: AsyncExitStack) -> tuple[Bound, list[socket.socket]]:
    places = ((settings.host, settings.port), (settings.admin_host, settings.admin_port))
    sockets = [_listen(host, port) for host, port in places]
    for listener in sockets:
        stack.callback(listener.close)
    shown = [_url(host, s.getsockname()[1]) for (host, _), s in zip(places, sockets, strict=True)]
    return Bound(f"{shown[0]}/v1", shown[1], f"{shown[0]}/metrics"), sockets


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((host, port))
    return listener


def _url(host: str, port: int) -> str:
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, host)  # noqa: S104 shown, not bound
    return f"http://{f'[{shown}]' if ':' in shown and not shown.startswith('[') else shown}:{port}"


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
