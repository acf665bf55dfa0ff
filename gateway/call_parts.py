"""What does a process need to serve calls, from the registry to the pipeline? Built in one place.

The counterpart for jobs is `durable.py`; `app.py` puts both together.
"""

from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass

from opentelemetry.sdk.trace import TracerProvider
from redis.asyncio import Redis

from backends import measured
from backends.clock import Clock
from backends.probe import Prober
from backends.registry import Registry
from backends.slo import Class
from gateway.accounting import Accounting
from gateway.afterwards import Afterwards, Later
from gateway.explain_store import Explanations
from gateway.limits import Limiter
from gateway.limits_store import LimitStore
from gateway.pipeline import Bounds, Pipeline
from gateway.queue.redis_ledger import RedisLedger
from gateway.relay import Patience, Relay
from gateway.retry_budget import RetryBudget
from gateway.settings import Settings
from gateway.settings_serving import Telemetry
from gateway.signalling import EstimatedSizes, Signaller
from gateway.steering import Steering
from gateway.telemetry import CallLog, Metrics, Sampling, tracer_provider
from gateway.upstream import Upstreams


@dataclass(frozen=True, slots=True)
class Reporting:
    """Where this process says what happened: spans, metrics, log lines, and when they are made."""

    provider: TracerProvider
    sampling: Sampling
    log: CallLog
    metrics: Metrics
    afterwards: Afterwards


@contextmanager
def reporting(telemetry: Telemetry) -> Iterator[Reporting]:
    """Build them; at the end what is left to say is said."""
    provider = tracer_provider(telemetry.service_name, otlp_endpoint=telemetry.otlp_endpoint)
    afterwards = Afterwards()
    try:
        yield Reporting(
            provider=provider,
            sampling=Sampling(telemetry.trace_ratio, is_on=telemetry.otlp_endpoint is not None),
            log=CallLog(telemetry.log_level, telemetry.log_format),
            metrics=Metrics.create(afterwards),
            afterwards=afterwards,
        )
    finally:
        afterwards.catch_up()
        provider.shutdown()


@dataclass(frozen=True, slots=True)
class CallParts:
    """What a call meets on its way, and what watches the fleet for it."""

    registry: Registry
    prober: Prober
    upstreams: Upstreams
    ledger: RedisLedger
    relay: Relay
    steering: Steering
    explanations: Explanations
    limits: Limiter
    signaller: Signaller
    pipeline: Pipeline


@asynccontextmanager
async def call_parts(
    settings: Settings,
    redis: Redis,
    classes: Mapping[str, Class],
    told: Reporting,
    clock: Clock,
    *,
    schema: int,
) -> AsyncIterator[CallParts]:
    """Build them, and close what they hold open; their tasks are the caller's to start."""
    async with AsyncExitStack() as stack:
        registry = Registry(redis, configured=settings.adopted_replicas())
        prober = Prober(registry)
        upstreams = Upstreams(
            idle_s=settings.upstream.idle_s, at_most=settings.upstream.connections_per_replica
        )
        stack.callback(upstreams.close)
        ledger = RedisLedger(redis, clock, tells_spare=schema > 1)
        stack.push_async_callback(ledger.aclose)
        relay = _relay(settings, upstreams, prober)
        steering = _steering(settings, registry, ledger, classes, clock, told.afterwards)
        explanations = Explanations(
            redis,
            clock,
            records_per_s=settings.explain.records_per_s,
            ttl_s=settings.explain.ttl_s,
        )
        limits = _limiter(settings, redis, ledger, clock)
        stack.push_async_callback(limits.aclose)
        sizes = EstimatedSizes(steering.estimates, steering.pools)
        signaller = Signaller(redis, classes, sizes, clock)
        pipeline = Pipeline(
            registry=registry,
            ledger=ledger,
            relay=relay,
            accounting=_accounting(told, classes, signaller),
            steering=steering,
            explanations=explanations,
            retries=RetryBudget(share=settings.retries.share),
            limits=limits,
            bounds=_bounds(settings),
        )
        stack.callback(registry.on_change(_following(registry, steering, upstreams)))
        yield CallParts(
            registry=registry,
            prober=prober,
            upstreams=upstreams,
            ledger=ledger,
            relay=relay,
            steering=steering,
            explanations=explanations,
            limits=limits,
            signaller=signaller,
            pipeline=pipeline,
        )


def _relay(settings: Settings, upstreams: Upstreams, prober: Prober) -> Relay:
    timeouts = settings.timeouts
    patience = Patience(timeouts.connect_s, timeouts.first_byte_s, timeouts.between_bytes_s)
    return Relay(upstreams, patience, report=prober.report)


def _steering(
    settings: Settings,
    registry: Registry,
    ledger: RedisLedger,
    classes: Mapping[str, Class],
    clock: Clock,
    later: Later,
) -> Steering:
    return Steering(
        registry=registry,
        ledger=ledger,
        clock=clock,
        classes=classes,
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


def _accounting(told: Reporting, classes: Mapping[str, Class], signaller: Signaller) -> Accounting:
    tracer = told.provider.get_tracer("sluice")
    return Accounting(
        told.metrics, tracer, told.sampling, told.log, classes, signaller, told.afterwards
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
