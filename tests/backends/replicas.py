"""Servers that behave as replicas do, well or badly, for tests of probes and tenures."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import orjson
from aiohttp import web

from backends.fleet import Replica
from backends.registry import replica_id


@dataclass
class Behaviour:
    """What a server answers; tests change it while it runs. A status of None: it never answers."""

    ready: int | None = 200
    health: int | None = 200
    running: int = 0
    has_loads: bool = True
    key: str | None = None
    seen: list[str] = field(default_factory=list)


@contextlib.asynccontextmanager
async def server(behaviour: Behaviour, port: int = 0) -> AsyncIterator[str]:
    """Serve; give the URL."""
    app = web.Application()

    async def answer(request: web.Request) -> web.Response:
        behaviour.seen.append(request.path)
        if request.path == "/ready":
            return await _status(behaviour.ready)
        if request.path == "/health":
            return await _status(behaviour.health)
        if request.path == "/v1/loads" and behaviour.has_loads:
            if behaviour.key and request.headers.get("Authorization") != f"Bearer {behaviour.key}":
                return web.json_response({"error": "Unauthorized"}, status=401)
            return web.Response(body=_loads(behaviour.running), content_type="application/json")
        return web.json_response({"detail": "Not Found"}, status=404)

    app.router.add_get("/{path:.*}", answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", port)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def replica(url: str, model: str = "m", **more: str) -> Replica:
    """Describe the server at a URL."""
    return Replica(id=replica_id(model, url), model=model, url=url, **more)  # type: ignore[arg-type]


async def _status(status: int | None) -> web.Response:
    if status is None:
        await asyncio.Event().wait()
    return web.Response(status=status or 500)


def _loads(running: int) -> bytes:
    rank = {"timestamp": 1795445439.6, "num_running_reqs": running, "num_waiting_reqs": 0}
    return orjson.dumps({"timestamp": "2026-11-23T14:50:39.686081+00:00", "loads": [rank]})
