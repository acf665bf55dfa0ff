"""Is this process alive, may traffic come, and what does it measure? No key is needed."""

from importlib.metadata import version
from typing import Any

from fastapi import APIRouter
from redis.exceptions import RedisError
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from gateway.control import Gather
from gateway.exposition import Form, joined, read, tell, write
from gateway.jobs.census import metrics_of
from gateway.services import Services

router = APIRouter(tags=["operations"])


@router.get("/health")
@router.get("/livez")
@router.get("/ping")
async def live() -> dict[str, str]:
    """Say that the process answers."""
    return {"status": "ok"}


@router.get("/readyz")
async def ready(request: Request) -> Response:
    """Say whether traffic should come: not while draining, and not before some replica is ready.

    A lost store alone does not turn it off: known keys and replicas are still served.
    """
    services: Services = request.app.state.services
    pools = services.registry.fleet.pools.values()
    checks = {
        "draining": services.lifecycle.draining,
        "store": services.registry.store_ok,
        "replicas": sum(len(pool.routable) for pool in pools),
    }
    is_ready = not checks["draining"] and bool(checks["replicas"])
    body = {"status": "ready" if is_ready else "not ready", "checks": checks}
    return JSONResponse(body, status_code=200 if is_ready else 503)


@router.get("/metrics", response_class=PlainTextResponse)
async def metrics(request: Request) -> Response:
    """Give the metrics of all processes that serve this port, as OpenMetrics or as plain text."""
    services: Services = request.app.state.services
    form = Form.accepted(request.headers.get("accept", ""))
    gather: Gather | None = getattr(request.app.state, "gather", None)
    if gather is None:
        parts = [count(services, form)]
    else:
        parts = [await gather(count(services))]
        if form is not Form.OPENMETRICS:
            parts = [write(read(parts[0].decode()), form).encode()]
    try:
        parts.append(metrics_of(await services.jobs.census(now=services.clock.now()), form))
    except (RedisError, OSError):
        pass  # what is ours can be told without the store
    return Response(joined(parts, form), headers={"content-type": form.value})


def count(services: Services, form: Form = Form.OPENMETRICS) -> bytes:
    """Give this process's metrics."""
    instruments = services.metrics
    for model in services.models():
        pool = services.registry.fleet.pool(model)
        running = sum(services.ledger.running(s.replica.id) for s in pool.standings)
        instruments.ready.labels(model).set(len(pool.routable))
        instruments.running.labels(model).set(running)
        instruments.waiting.labels(model).set(services.ledger.waiting(model))
    return tell(instruments.registry, form)


@router.get("/version")
async def show_version() -> dict[str, Any]:
    """Name what runs here."""
    return {"name": "sluice", "version": version("sluice")}
