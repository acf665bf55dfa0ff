"""What is one worker process made of, how does it begin and how does it leave?"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import aiohttp

from backends.restarts import Restarts
from backends.store import connect
from backends.store_schema import OLDEST, check_schema
from gateway.app import services_for
from gateway.jobs.model import Claim, JobKind
from gateway.services import Services
from gateway.settings import Settings
from gateway.telemetry import set_up_logs
from gateway.webhooks import Webhooks
from gateway.worker import Worker, new_name
from gateway.worker_batch import BatchRunner
from gateway.worker_probes import probes
from gateway.worker_video import VideoRunner


@asynccontextmanager
async def worker_for(services: Services, *, name: str | None = None) -> AsyncIterator[Worker]:
    """Build a worker on the services of this process."""
    settings = services.settings
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=4.0)
    async with aiohttp.ClientSession(
        connector=connector, cookie_jar=aiohttp.DummyCookieJar(), trust_env=False
    ) as session:
        videos = VideoRunner(
            services.registry,
            services.artifacts,
            session,
            services.clock,
            classes=ranked(services),
            restarts=Restarts(services.redis, services.clock),
            left_s=services.outlook.left_s,
            restart_s=settings.jobs.restart_s,
        )
        services.background.start(services.yielding.listen(), "yielding")
        services.background.start(services.yielding.watch(), "waiting")
        batches = BatchRunner(
            services,
            services.yielding,
            at_most=settings.jobs.batches_per_worker,
            rows_in_flight=settings.jobs.rows_in_flight,
            most_rows=settings.jobs.rows,
        )

        async def learn(claim: Claim, took_s: float) -> None:
            if claim.job.kind is JobKind.VIDEO:
                now = services.clock.now()
                # Who went on with another's work has not seen how long it takes.
                whole_s = took_s if claim.fence == 1 else None
                await services.outlook.learn(claim.job, service_s=whole_s, ended_at=now)

        yield Worker(
            services.jobs,
            {JobKind.VIDEO: videos, JobKind.BATCH: batches},
            services.clock,
            learn=learn,
            traces=services.traces,
            name=name or new_name(),
        )


def ranked(services: Services) -> tuple[str, ...]:
    """Name the classes, the first served first."""
    return tuple(sorted(services.classes, key=lambda name: services.classes[name].rank))


async def serve_worker(
    settings: Settings,
    *,
    redis_url: str,
    stop: asyncio.Event,
    host: str = "127.0.0.1",
    port: int = 0,
    on_ready: Callable[[str], None] | None = None,
) -> int:
    """Work until told to stop; give the exit status. Probes and metrics are at `host:port`.

    Raises WrongSchema.
    """
    set_up_logs(settings.telemetry.log_level, settings.telemetry.log_format)
    async with AsyncExitStack() as stack:
        redis = connect(redis_url)
        stack.push_async_callback(redis.aclose)
        schema = await check_schema(redis) or OLDEST
        services = await stack.enter_async_context(services_for(settings, redis, schema=schema))
        worker = await stack.enter_async_context(worker_for(services))
        hooks = Webhooks(redis, services.jobs, settings.webhooks, services.clock, worker.name)
        services.background.start(hooks.run(), "webhooks")
        url = await stack.enter_async_context(probes(services, worker, host, port))
        if on_ready is not None:
            on_ready(url)
        await worker.run(stop)
    return 0
