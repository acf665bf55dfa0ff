"""What is done for the jobs whoever asks: leases and deadlines every second, expiry now and then?

Every gateway and every worker does it, so that it goes on while one of them lives; the sweep takes
a lock in the store, since one sweeper is enough.
"""

import asyncio

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from backends.clock import Clock
from gateway.artifacts import Artifacts, ArtifactsAway
from gateway.files import Files
from gateway.jobs.model import JOBS, Job, JobKind
from gateway.jobs.store import JobStore
from gateway.replies import answer

TICK_S = 1.0
SWEEP_EVERY_S = 30.0
ORPHANS_EVERY_S = 600.0
ORPHAN_AGE_S = 86_400.0
FOLDERS = {JobKind.VIDEO: "videos", JobKind.BATCH: "batches"}

_log = structlog.get_logger("jobs")


class Housekeeper:
    """Keeps jobs, files and artifacts in order."""

    def __init__(
        self, redis: Redis, jobs: JobStore, files: Files, artifacts: Artifacts, clock: Clock
    ) -> None:
        self._redis = redis
        self._jobs = jobs
        self._files = files
        self._artifacts = artifacts
        self._clock = clock

    async def run(self) -> None:
        """Work for ever; copes with a store or artifacts that are away."""
        while True:
            try:
                await self._jobs.tick(now=self._clock.now())
                if await self._is_due("sweep", SWEEP_EVERY_S):
                    await self.sweep(now=self._clock.now())
                if await self._is_due("orphans", ORPHANS_EVERY_S):
                    await self.sweep_orphans(before=self._clock.now() - ORPHAN_AGE_S)
            except (RedisError, ArtifactsAway, OSError) as error:
                _log.debug("housekeeping_waits", error=str(error)[:200])
            await self._clock.sleep(TICK_S)

    async def sweep(self, *, now: float) -> int:
        """Remove jobs and files whose time is over, artifacts first; gives how many."""
        ids = await answer(
            self._redis.zrangebyscore(f"{JOBS}expiring", "-inf", now, start=0, num=100)
        )
        jobs = await self._jobs.find_all([each.decode() for each in ids])
        for job in jobs:
            await self._artifacts.remove(f"{FOLDERS[job.kind]}/{job.id}")
            await self._jobs.forget(job)
        gone = {each.decode() for each in ids} - {job.id for job in jobs}
        if gone:
            await answer(self._redis.zrem(f"{JOBS}expiring", *gone))
        return len(jobs) + await self._files.remove_expired(now=now)

    async def sweep_orphans(self, *, before: float) -> list[str]:
        """Remove artifacts that no record speaks of and that are older than `before`."""
        removed = []
        for kind, folder in FOLDERS.items():
            by_job: dict[str, list[str]] = {}
            for name in await self._artifacts.list_old(folder, before):
                by_job.setdefault(name.split("/")[1], []).append(name)
            for job_id, names in by_job.items():
                job = await self._jobs.find(job_id)
                for name in names:
                    if not _counts(job, kind, name):
                        await self._artifacts.remove(name)
                        removed.append(name)
                await asyncio.sleep(0)
        for name in await self._artifacts.list_old("files", before):
            if not await self._files.holds(name):
                await self._artifacts.remove(name)
                removed.append(name)
        return removed

    async def _is_due(self, what: str, every_s: float) -> bool:
        key = f"{JOBS}{what}"
        return bool(await answer(self._redis.set(key, "1", nx=True, ex=int(every_s))))


def _counts(job: Job | None, kind: JobKind, name: str) -> bool:
    """Whether a job's record speaks of an artifact: its result, or what it is still worked with."""
    if job is None:
        return False
    if not job.has_ended:
        return True
    if kind is JobKind.BATCH:
        return False  # its rows are in its two files by now
    artifact = str(job.result.get("artifact", ""))
    return bool(artifact) and name.rpartition("/")[0] == artifact.rpartition("/")[0]
