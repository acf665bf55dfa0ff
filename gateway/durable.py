"""What does a process need to take jobs on and to show them? Built by the composition root."""

from collections.abc import Mapping
from dataclasses import dataclass

import platformdirs
from redis.asyncio import Redis

from backends.clock import Clock
from backends.registry import Registry
from backends.slo import Class
from gateway.artifacts import Artifacts, LocalArtifacts
from gateway.files import Files
from gateway.housekeeping import Housekeeper
from gateway.jobs.backlog import Backlogs
from gateway.jobs.outlook import Outlook
from gateway.jobs.store import JobStore, Terms
from gateway.settings import Settings
from gateway.signing import Signer
from gateway.video_intake import VideoIntake


@dataclass(frozen=True, slots=True)
class Durable:
    """Jobs and all that belongs to them."""

    jobs: JobStore
    outlook: Outlook
    artifacts: Artifacts
    files: Files
    videos: VideoIntake
    signer: Signer
    housekeeper: Housekeeper
    backlogs: Backlogs


def durable_parts(
    settings: Settings,
    redis: Redis,
    registry: Registry,
    classes: Mapping[str, Class],
    clock: Clock,
) -> Durable:
    """Build them; nothing is asked of the store or of the artifacts yet."""
    job_settings = settings.jobs
    jobs = JobStore(redis, Terms(job_settings.lease_s, job_settings.attempts, job_settings.losses))
    artifacts = artifacts_of(settings)
    outlook = Outlook(redis)
    files = Files(redis, artifacts)
    return Durable(
        jobs=jobs,
        outlook=outlook,
        artifacts=artifacts,
        files=files,
        videos=VideoIntake(settings, jobs, outlook, registry, artifacts, clock, classes),
        signer=Signer(redis, good_for_s=settings.artifacts.signed_url_s),
        housekeeper=Housekeeper(redis, jobs, files, artifacts, clock),
        backlogs=Backlogs(redis, outlook, clock),
    )


def artifacts_of(settings: Settings) -> Artifacts:
    """Open the place of the artifacts: an S3 bucket, else a directory in the data directory."""
    where = settings.artifacts
    if where.url is not None:
        from gateway.artifacts_s3 import S3Artifacts  # only who uses S3 needs its library

        return S3Artifacts.of(where)
    data = settings.data_dir or platformdirs.user_data_path("sluice", appauthor=False)
    return LocalArtifacts(data.expanduser() / "artifacts")
