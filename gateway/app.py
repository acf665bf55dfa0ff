"""The composition root: what is built, from what, and in which order?"""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI
from redis.asyncio import Redis

from backends.clock import Clock, SystemClock
from backends.probe import Prober
from backends.registry import Registry
from gateway.accounting import Accounting
from gateway.api import generation, health, models
from gateway.api import responses as responses_api
from gateway.api.document import openapi
from gateway.api.passthrough import passthrough_router
from gateway.api.refusals import install
from gateway.auth import Authenticator
from gateway.keys import KeyStore
from gateway.middleware import RequestId
from gateway.pipeline import Bounds, Pipeline
from gateway.queue.memory import MemoryLedger
from gateway.relay import Patience, Relay
from gateway.responses_background import ResponseRuns
from gateway.responses_store import ResponsesStore
from gateway.routing.least_outstanding import candidates
from gateway.services import Lifecycle, Services
from gateway.settings import Settings
from gateway.tasks import Background
from gateway.telemetry import Metrics, tracer_provider
from gateway.upstream import Upstreams


@asynccontextmanager
async def services_for(
    settings: Settings, redis: Redis, *, clock: Clock | None = None
) -> AsyncIterator[Services]:
    """Build everything that one gateway process holds, and end it in reverse order."""
    clock = clock or SystemClock()
    async with AsyncExitStack() as stack:
        background = await stack.enter_async_context(Background())
        provider = tracer_provider(
            settings.telemetry.service_name,
            ratio=settings.telemetry.trace_ratio,
            otlp_endpoint=settings.telemetry.otlp_endpoint,
        )
        stack.callback(provider.shutdown)
        metrics = Metrics.create()
        registry = Registry(redis, configured=settings.adopted_replicas())
        prober = Prober(registry)
        keys = KeyStore(redis, clock)
        upstreams = Upstreams(
            idle_s=settings.upstream.idle_s, at_most=settings.upstream.connections_per_replica
        )
        stack.callback(upstreams.close)
        ledger = MemoryLedger(clock.monotonic)
        timeouts = settings.timeouts
        relay = Relay(
            upstreams,
            Patience(timeouts.connect_s, timeouts.first_byte_s, timeouts.between_bytes_s),
            report=prober.report,
        )
        classes = settings.classes_by_name()
        pipeline = Pipeline(
            registry=registry,
            ledger=ledger,
            relay=relay,
            accounting=Accounting(metrics, provider.get_tracer("sluice")),
            classes=classes,
            bounds=Bounds(
                settings.queue.max_waiting, settings.retries.attempts, settings.queue.retry_after_s
            ),
        )
        stack.callback(registry.on_change(_offering(registry, ledger, upstreams)))
        responses = await stack.enter_async_context(
            ResponseRuns(
                ResponsesStore(
                    redis,
                    ttl_s=settings.responses.ttl_s,
                    max_bytes=settings.responses.max_bytes,
                ),
                pipeline.serve,
                clock,
            )
        )
        background.start(responses.watch(), "responses")
        background.start(registry.run(), "registry")
        background.start(prober.run(), "prober")
        yield Services(
            settings=settings,
            clock=clock,
            redis=redis,
            registry=registry,
            prober=prober,
            keys=keys,
            authenticator=Authenticator(keys, clock, no_auth=settings.no_auth),
            upstreams=upstreams,
            ledger=ledger,
            relay=relay,
            pipeline=pipeline,
            metrics=metrics,
            classes=classes,
            background=background,
            responses=responses,
            lifecycle=Lifecycle(clock.now()),
        )


def _offering(registry: Registry, ledger: MemoryLedger, upstreams: Upstreams) -> Callable[[], None]:
    """Give what is done when the fleet changes: waiting calls take what is there now."""

    def offer() -> None:
        urls: set[str] = set()
        for model, pool in registry.fleet.pools.items():
            ledger.offer(model, candidates(pool, ledger.running, excluded=frozenset()))
            urls.update(s.replica.url for s in pool.standings)
        upstreams.keep_only(urls)

    return offer


def create_app(services: Services | None, *, docs: bool = True) -> FastAPI:
    """Make the public API on services that somebody else began; None only to describe it."""
    app = FastAPI(
        title="Sluice",
        version=version("sluice"),
        description="An OpenAI-compatible serving gateway.",
        docs_url="/docs" if docs else None,
        redoc_url="/redoc" if docs else None,
        openapi_url="/openapi.json" if docs else None,
        redirect_slashes=False,
    )
    app.state.services = services
    app.include_router(generation.router)
    app.include_router(passthrough_router())
    app.include_router(responses_api.router)
    app.include_router(models.router)
    app.include_router(health.router)
    app.openapi = lambda: openapi(app)  # type: ignore[method-assign]
    install(app)
    app.add_middleware(RequestId)
    return app


def openapi_document() -> dict[str, Any]:
    """Give the OpenAPI document without starting anything."""
    return openapi(create_app(None))
