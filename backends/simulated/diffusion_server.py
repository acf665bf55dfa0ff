"""How do simulated diffusion replicas come to serve?"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

from backends.clock import Clock, SystemClock
from backends.simulated.diffusion import DiffusionReplica, detail
from backends.simulated.diffusion_settings import DiffusionSettings


def create_app(replica: DiffusionReplica) -> web.Application:
    """Route SGLang's paths to a replica."""

    @web.middleware
    async def guard(request: web.Request, handler: Any) -> web.StreamResponse:
        key = replica.settings.api_key
        if key is not None and request.headers.get("Authorization") != f"Bearer {key}":
            return detail(401, "Unauthorized")
        answer: web.StreamResponse = await handler(request)
        return answer

    app = web.Application(middlewares=[guard], client_max_size=64 * 1024 * 1024)
    add = app.router.add_route
    for path in ("/health", "/health_generate", "/liveness"):
        add("GET", path, replica.health)
    add("GET", "/v1/models", replica.models)
    add("GET", "/models", replica.models)
    add("GET", "/model_info", replica.model_info)
    add("POST", "/v1/videos", replica.create)
    add("GET", "/v1/videos", replica.list)
    add("GET", "/v1/videos/{id}", replica.find)
    add("DELETE", "/v1/videos/{id}", replica.delete)
    add("POST", "/v1/videos/{id}/cancel", replica.cancel)
    add("GET", "/v1/videos/{id}/content", replica.content)
    return app


@asynccontextmanager
async def serve_diffusion(
    settings: DiffusionSettings, *, clock: Clock | None = None
) -> AsyncIterator[tuple[DiffusionReplica, ...]]:
    """Serve replicas while the block runs; OSError where a port is taken."""
    time = clock or SystemClock()
    replicas: list[DiffusionReplica] = []
    runners: list[web.AppRunner] = []
    tasks: list[asyncio.Task[None]] = []
    try:
        for index in range(settings.replicas):
            each = DiffusionReplica(settings, time)
            runner = web.AppRunner(create_app(each), access_log=None, shutdown_timeout=0.1)
            await runner.setup()
            runners.append(runner)
            port = settings.port + index if settings.port else 0
            await web.TCPSite(runner, settings.host, port).start()
            each.url = f"http://{settings.host}:{runner.addresses[0][1]}"
            tasks.append(asyncio.create_task(each.run(), name=f"diffusion {each.url}"))
            replicas.append(each)
        yield tuple(replicas)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for runner in runners:
            await runner.cleanup()
