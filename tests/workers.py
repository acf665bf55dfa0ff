"""A worker in this process, and diffusion replicas that need no GPU."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backends.simulated.diffusion import DiffusionReplica
from backends.simulated.diffusion_server import serve_diffusion
from backends.simulated.diffusion_settings import DiffusionSettings
from gateway.worker import Worker
from gateway.worker_main import worker_for
from tests.gateways import RunningGateway, running_gateway, until

VIDEO_MODEL = "tiny-wan"


@dataclass(frozen=True)
class VideoStack:
    """A gateway, a worker (None: none runs) and diffusion replicas."""

    gateway: RunningGateway
    replicas: tuple[DiffusionReplica, ...]
    worker: Worker | None

    @property
    def base_url(self) -> str:
        """Where an OpenAI client points."""
        return f"{self.gateway.url}/v1"


@asynccontextmanager
async def running_worker(gateway: RunningGateway, **more: Any) -> AsyncIterator[Worker]:
    """Run a worker on the services of a gateway of this process."""
    stop = asyncio.Event()
    async with worker_for(gateway.services, **more) as worker:
        task = asyncio.create_task(worker.run(stop))
        try:
            yield worker
        finally:
            stop.set()
            await task


@asynccontextmanager
async def video_stack(
    redis_url: str,
    data_dir: Path,
    *,
    diffusion: DiffusionSettings | None = None,
    work: bool = True,
    video: dict[str, Any] | None = None,
    models: Mapping[str, Sequence[str]] | None = None,
    **settings: Any,
) -> AsyncIterator[VideoStack]:
    """Run all of it; `diffusion` says how the replicas behave."""
    how = diffusion or DiffusionSettings(model=VIDEO_MODEL, fixed_s=0.02, speed=1.0)
    async with serve_diffusion(how) as replicas:
        model: dict[str, Any] = {
            "engine": "diffusion",
            "replicas": [{"url": each.url} for each in replicas],
            **({} if video is None else {"video": video}),
        }
        async with running_gateway(
            redis_url,
            models or {},
            data_dir=data_dir,
            more_models={VIDEO_MODEL: model},
            **settings,
        ) as gateway:
            pool = gateway.services.registry
            await until(lambda: len(pool.fleet.pool(VIDEO_MODEL).routable) == len(replicas))
            if not work:
                yield VideoStack(gateway, replicas, None)
                return
            async with running_worker(gateway) as worker:
                yield VideoStack(gateway, replicas, worker)
