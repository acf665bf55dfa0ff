"""The composition root: what is built, from what, and in which order?"""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI
from redis.asyncio import Redis

from backends import measured
from backends.clock import Clock, SystemClock
from backends.probe import Prober
from backends.registry import Registry
from backends.store_schema import VERSION
from gateway.accounting import Accounting
from gateway.afterwards import Afterwards, Later
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
from gateway.durable import durable_parts
from gateway.explain_store import Explanations
from gateway.job_traces import JobTraces
from gateway.keys import KeyStore
from gateway.limits import Limiter
from gateway.limits_store import LimitStore
from gateway.middleware import RequestId
from gateway.pipeline import Bounds, Pipeline
from gateway.queue.redis_ledger import RedisLedger
from gateway.relay import Patience, Relay
from gateway.responses_background import ResponseRuns
from gateway.responses_store import ResponsesStore
from gateway.retry_budget import RetryBudget
from gateway.services import Lifecycle, Services
from gateway.settings import Settings
from gateway.signalling import EstimatedSizes, Signaller
from gateway.steering import Steering
from gateway.tasks import Background
from gateway.telemetry import CallLog, Metrics, Sampling, tracer_provider
from gateway.upstream import Upstreams
from gateway.worker_yield import Yielding


@asynccontextmanager
async def services_for(
    settings: Settings, redis: Redis, *, clock: Clock | None = None, schema: int = VERSION
) -> AsyncIterator[Services]:
    """Build everything that one gateway process holds, and end it in reverse order.

    `schema` is the store's, and what is written there is of that schema.
    """
    clock = clock or SystemClock()
    async with AsyncExitStack() as stack:
        background = await stack.enter_async_context(Background())
        telemetry = settings.telemetry
        provider = tracer_provider(telemetry.service_name, otlp_endpoint=telemetry.otlp_endpoint)
        log = CallLog(telemetry.log_level, telemetry.log_format)
        sampling = Sampling(telemetry.trace_ratio, is_on=telemetry.otlp_endpoint is not None)
        stack.callback(provider.shutdown)
        afterwards = Afterwards()
        stack.callback(afterwards.catch_up)
        metrics = Metrics.create(afterwards)
        registry = Registry(redis, configured=settings.adopted_replicas())
        prober = Prober(registry)
        keys = KeyStore(redis, clock)
        upstreams = Upstreams(
            idle_s=settings.upstream.idle_s, at_most=settings.upstream.connections_per_replica
        )
        stack.callback(upstreams.close)
        ledger = RedisLedger(redis, clock, tells_spare=schema > 1)
        stack.push_async_callback(ledger.aclose)
        classes = settings.classes_by_name()
        relay = _relay(settings, upstreams, prober)
        steering = _steering(settings, registry, ledger, clock, afterwards)
        explain = settings.explain
        explanations = Explanations(
            redis, clock, records_per_s=explain.records_per_s, ttl_s=explain.ttl_s
        )
        limits = _limiter(settings, redis, ledger, clock)
        stack.push_async_callback(limits.aclose)
        signaller = Signaller(
            redis, classes, EstimatedSizes(steering.estimates, steering.pools), clock
        )
        pipeline = Pipeline(
            registry=registry,
            ledger=ledger,
            relay=relay,
            accounting=Accounting(
                metrics,
                provider.get_tracer("sluice"),
                sampling,
                log,
                classes,
                signaller,
                afterwards,
            ),
            steering=steering,
            explanations=explanations,
            retries=RetryBudget(share=settings.retries.share),
            limits=limits,
            bounds=_bounds(settings),
        )
        stack.callback(registry.on_change(_following(registry, steering, upstreams)))
        store = ResponsesStore(
            redis, ttl_s=settings.responses.ttl_s, max_bytes=settings.responses.max_bytes
        )
        responses = await stack.enter_async_context(ResponseRuns(store, pipeline.serve, clock))
        durable = await stack.enter_async_context(
            durable_parts(settings, redis, registry, classes, clock)
        )
        agreement = Agreement(redis, steering.pools.states, clock, signaller.name)
        stack.push_async_callback(agreement.leave)
        for name, work in (
            ("agreement", agreement.run()),
            ("responses", responses.watch()),
            ("housekeeping", durable.housekeeper.run()),
            ("backlogs", durable.backlogs.run()),
            ("registry", registry.run()),
            ("prober", prober.run()),
            ("ledger", ledger.run()),
            ("limits", limits.run()),
            ("lookout", steering.lookout.run()),
            ("explanations", explanations.run()),
            ("signals", signaller.run()),
        ):
            background.start(work, name)
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
            limits=limits,
            explanations=explanations,
            metrics=metrics,
            classes=classes,
            background=background,
            responses=responses,
            jobs=durable.jobs,
            outlook=durable.outlook,
            traces=JobTraces(provider.get_tracer("sluice.jobs"), sampling),
            housekeeper=durable.housekeeper,
            artifacts=durable.artifacts,
            files=durable.files,
            videos=durable.videos,
            signer=durable.signer,
            yielding=Yielding(redis, ledger.slots, steering.pools.guests, ledger.backlog),
            lifecycle=Lifecycle(clock.now()),
        )


def _relay(settings: Settings, upstreams: Upstreams, prober: Prober) -> Relay:
    timeouts = settings.timeouts
    patience = Patience(timeouts.connect_s, timeouts.first_byte_s, timeouts.between_bytes_s)
    return Relay(upstreams, patience, report=prober.report)


def _steering(
    settings: Settings, registry: Registry, ledger: RedisLedger, clock: Clock, later: Later
) -> Steering:
    return Steering(
        registry=registry,
        ledger=ledger,
        clock=clock,
        classes=settings.classes_by_name(),
        policy_name=settings.routing.policy,
        rtt_s={name: site.rtt_ms / 1e3 for name, site in settings.sites.items()},
        most_waiting=settings.queue.max_waiting,
        weights={name: each.weight for name, each in settings.tenants.items()},
        later=later,
        profiles=measured.read(settings.profiles),
    )


def _limiter(settings: Settings, redis: Redis, ledger: RedisLedger, clock: Clock) -> Limiter:
    return Limiter(
        LimitStore(redis, clock),
        clock,
        tenants={n: q for n, each in settings.tenants.items() if (q := each.quota())},
        gateways=lambda: ledger.gateways,
    )


def _bounds(settings: Settings) -> Bounds:
    return Bounds(
        settings.retries.attempts,
        settings.queue.retry_after_s,
        frozenset(settings.explain.headers_for),
    )


def _following(registry: Registry, steering: Steering, upstreams: Upstreams) -> Callable[[], None]:
    """Give what is done when the fleet changes: waiting calls take what is there now."""

    def follow() -> None:
        steering.lookout.look()
        pools = registry.fleet.pools.values()
        upstreams.keep_only({s.replica.url for pool in pools for s in pool.standings})

    return follow


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
