"""A gateway in this process, on a real port, with a real store."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import uvicorn

from backends.store import connect
from gateway.app import create_app, services_for
from gateway.middleware import open_to_pages
from gateway.protocol import protocol_class
from gateway.services import Services
from gateway.settings import Settings

MODEL = "m"


@dataclass(frozen=True)
class RunningGateway:
    """Where it listens, and what it holds."""

    url: str
    services: Services
    server: uvicorn.Server

    @property
    def port(self) -> int:
        """The port of the public API."""
        return int(self.url.rpartition(":")[2])

    def leftovers(self) -> dict[str, int]:
        """What must be zero when no call is there."""
        services = self.services
        return {
            "in_flight": services.lifecycle.in_flight,
            "slots": services.ledger.held,
            "cancels": services.relay.open_cancels,
            "waiting": sum(services.ledger.waiting(m) for m in services.models()),
        }


async def until(condition: Callable[[], object], within_s: float = 20.0) -> None:
    """Wait until something holds, and fail if it does not in time."""
    async with asyncio.timeout(within_s):
        while not condition():
            await asyncio.sleep(0.01)


@asynccontextmanager
async def running_gateway(
    redis_url: str,
    models: Mapping[str, Sequence[str]],
    *,
    direct: bool = True,
    ready: bool = True,
    max_running: int = 0,
    more_models: Mapping[str, Any] | None = None,
    **settings: Any,
) -> AsyncIterator[RunningGateway]:
    """Run a gateway on these replicas' URLs by model.

    `more_models` are told as a file would; nobody waits for their replicas.
    `direct` False takes uvicorn's own protocol, so that all goes through plain ASGI.
    """
    values: dict[str, Any] = {
        "no_auth": True,
        "models": {
            m: {
                "engine": "sglang",
                "replicas": [{"url": u, "max_running": max_running} for u in urls],
            }
            for m, urls in models.items()
        }
        | dict(more_models or {}),
        **settings,
    }
    made = Settings.model_validate(values)
    redis = connect(redis_url)
    async with services_for(made, redis) as services:
        limits = made.limits
        config = uvicorn.Config(
            open_to_pages(create_app(services), made.cors.origins),
            loop="none",
            http=protocol_class(
                header_bytes=limits.header_bytes,
                head_timeout_s=limits.head_timeout_s,
                most_connections=limits.connections,
            )
            if direct
            else "httptools",
            ws="none",
            lifespan="off",
            access_log=False,
            log_config=None,
            timeout_keep_alive=int(limits.keep_alive_s),
            host="127.0.0.1",
            port=0,
        )
        server = uvicorn.Server(config)
        task = asyncio.create_task(server._serve())  # without its signal handlers
        try:
            await until(lambda: server.started)
            port = server.servers[0].sockets[0].getsockname()[1]
            if ready:
                await until(
                    lambda: all(
                        len(services.registry.fleet.pool(m).routable) == len(urls)
                        for m, urls in models.items()
                    )
                )
            yield RunningGateway(f"http://127.0.0.1:{port}", services, server)
        finally:
            server.should_exit = server.force_exit = True
            await task
    await redis.aclose()
