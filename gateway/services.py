"""What does one gateway process hold? Built once by the composition root, handed to the routes."""

from collections.abc import Mapping
from dataclasses import dataclass

from redis.asyncio import Redis

from backends.clock import Clock
from backends.probe import Prober
from backends.registry import Registry
from backends.slo import Class
from gateway.artifacts import Artifacts
from gateway.auth import Authenticator
from gateway.explain_store import Explanations
from gateway.files import Files
from gateway.housekeeping import Housekeeper
from gateway.job_traces import JobTraces
from gateway.jobs.outlook import Outlook
from gateway.jobs.store import JobStore
from gateway.keys import KeyStore
from gateway.limits import Limiter
from gateway.pipeline import Pipeline
from gateway.queue.redis_ledger import RedisLedger
from gateway.relay import Relay
from gateway.responses_background import ResponseRuns
from gateway.settings import Settings
from gateway.signing import Signer
from gateway.tasks import Background
from gateway.telemetry import Metrics
from gateway.upstream import Upstreams
from gateway.video_intake import VideoIntake
from gateway.worker_yield import Yielding


@dataclass(slots=True)
class Lifecycle:
    """Whether this process still takes new calls, and how many it serves."""

    started_at: float
    draining: bool = False
    in_flight: int = 0


@dataclass(slots=True)
class Services:
    """Everything that routes need, by name; `settings` alone is exchanged, by a reload."""

    settings: Settings
    clock: Clock
    redis: Redis
    registry: Registry
    prober: Prober
    keys: KeyStore
    authenticator: Authenticator
    upstreams: Upstreams
    ledger: RedisLedger
    relay: Relay
    pipeline: Pipeline
    limits: Limiter
    explanations: Explanations
    metrics: Metrics
    classes: Mapping[str, Class]
    background: Background
    responses: ResponseRuns
    jobs: JobStore
    outlook: Outlook
    traces: JobTraces
    housekeeper: Housekeeper
    artifacts: Artifacts
    files: Files
    videos: VideoIntake
    signer: Signer
    yielding: Yielding
    lifecycle: Lifecycle

    def models(self) -> list[str]:
        """The public ids of all models: configured, or served by somebody."""
        return sorted({*self.settings.models, *self.registry.fleet.pools})
