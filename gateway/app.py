"""The composition root: what is built, from what, and in which order?"""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI
from redis.asyncio import Redis

from backends.clock import Clock, SystemClock
from backends.store_schema import VERSION
from gateway.agreement import Agreement
from gateway.api import (
    batches,
    files,
    generation,
    health,
    models,
    video_content,
    video_generations,
    videos,
)
from gateway.api import responses as responses_api
from gateway.api.calls import CallRoute
from gateway.api.document import openapi
from gateway.api.front import Front
from gateway.api.passthrough import passthrough_router
from gateway.api.refusals import install
from gateway.auth import Authenticator
from gateway.call_parts import CallParts, call_parts, reporting
from gateway.durable import Durable, durable_parts
from gateway.job_traces import JobTraces
from gateway.keys import KeyStore
from gateway.middleware import RequestId
from gateway.responses_background import ResponseRuns
from gateway.responses_store import ResponsesStore
from gateway.services import Lifecycle, Services
from gateway.settings import Settings
from gateway.tasks import Background
from gateway.worker_yield import Yielding


@asynccontextmanager
async def services_for(
    settings: Settings, redis: Redis, *, clock: Clock | None = None, schema: int = VERSION
) -> AsyncIterator[Services]:
    """Build everything that one gateway process holds, and end it in reverse order.

    `schema` is the store's, and what is written there is of that schema.
    """
    clock = clock or SystemClock()
    classes = settings.classes_by_name()
    keys = KeyStore(redis, clock)
    kept = ResponsesStore(
        redis, ttl_s=settings.responses.ttl_s, max_bytes=settings.responses.max_bytes
    )
    async with AsyncExitStack() as stack:
        background = await stack.enter_async_context(Background())
        told = stack.enter_context(reporting(settings.telemetry))
        calls = await stack.enter_async_context(
            call_parts(settings, redis, classes, told, clock, schema=schema)
        )
        responses = await stack.enter_async_context(ResponseRuns(kept, calls.pipeline.serve, clock))
        durable = durable_parts(settings, redis, calls.registry, classes, clock)
        pools, ledger = calls.steering.pools, calls.ledger
        agreement = Agreement(redis, pools.states, clock, calls.signaller.name)
        stack.push_async_callback(agreement.leave)
        _begin(background, calls, durable, responses, agreement)
        yield Services(
            settings=settings,
            clock=clock,
            redis=redis,
            registry=calls.registry,
            prober=calls.prober,
            keys=keys,
            authenticator=Authenticator(keys, clock, no_auth=settings.no_auth),
            upstreams=calls.upstreams,
            ledger=ledger,
            relay=calls.relay,
            pipeline=calls.pipeline,
            limits=calls.limits,
            explanations=calls.explanations,
            metrics=told.metrics,
            classes=classes,
            background=background,
            responses=responses,
            jobs=durable.jobs,
            outlook=durable.outlook,
            traces=JobTraces(told.provider.get_tracer("sluice.jobs"), told.sampling),
            housekeeper=durable.housekeeper,
            artifacts=durable.artifacts,
            files=durable.files,
            videos=durable.videos,
            signer=durable.signer,
            yielding=Yielding(redis, ledger.slots, pools.guests, ledger.backlog),
            lifecycle=Lifecycle(clock.now()),
        )


def _begin(
    background: Background,
    calls: CallParts,
    durable: Durable,
    responses: ResponseRuns,
    agreement: Agreement,
) -> None:
    """Start what goes on beside the calls for as long as the process lives."""
    for name, work in (
        ("agreement", agreement.run()),
        ("responses", responses.watch()),
        ("housekeeping", durable.housekeeper.run()),
        ("backlogs", durable.backlogs.run()),
        ("registry", calls.registry.run()),
        ("prober", calls.prober.run()),
        ("ledger", calls.ledger.run()),
        ("limits", calls.limits.run()),
        ("lookout", calls.steering.lookout.run()),
        ("explanations", calls.explanations.run()),
        ("signals", calls.signaller.run()),
    ):
        background.start(work, name)


def create_app(services: Services | None, *, docs: bool = True) -> FastAPI:
    """Make the public API on services that somebody else began; None only to describe it."""
    app = Front(
        ahead={}
        if services is None
        else {p: RequestId(CallRoute(services, each)) for p, each in generation.AHEAD.items()},
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
    app.include_router(video_generations.router)
    app.include_router(videos.router)
    app.include_router(video_content.router)
    app.include_router(files.router)
    app.include_router(batches.router)
    app.include_router(models.router)
    app.include_router(health.router)
    app.openapi = lambda: openapi(app)  # type: ignore[method-assign]
    install(app)
    app.add_middleware(RequestId)
    return app


def openapi_document() -> dict[str, Any]:
    """Give the OpenAPI document without starting anything."""
    return openapi(create_app(None))
