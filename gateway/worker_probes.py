"""How does a worker say that it lives, and what it measures? A few lines of HTTP."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web
from redis.exceptions import RedisError

from gateway.exposition import Form, joined, tell
from gateway.jobs.census import metrics_of
from gateway.services import Services
from gateway.worker import Worker

SHUTDOWN_S = 0.5


@asynccontextmanager
async def probes(services: Services, worker: Worker, host: str, port: int) -> AsyncIterator[str]:
    """Serve /livez, /ready and /metrics while the block runs; give the base URL."""

    async def alive(_: web.Request) -> web.Response:
        return web.json_response({"status": "ok", "worker": worker.name, "busy": worker.busy})

    async def metrics(request: web.Request) -> web.Response:
        form = Form.accepted(request.headers.get("accept", ""))
        parts = [tell(services.metrics.registry, form)]
        try:
            parts.append(metrics_of(await services.jobs.census(now=services.clock.now()), form))
        except (RedisError, OSError):
            pass  # what is ours can be told without the store
        return web.Response(body=joined(parts, form), headers={"content-type": form.value})

    app = web.Application()
    for path in ("/livez", "/ready", "/readyz", "/health"):
        app.router.add_get(path, alive)
    app.router.add_get("/metrics", metrics)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=SHUTDOWN_S)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
        yield f"http://{host}:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()
