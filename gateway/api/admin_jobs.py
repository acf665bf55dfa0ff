"""`/admin/jobs`: what an operator sees of jobs, whosever they are, and may do about them."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request

from backends.clock import Clock
from gateway.api.audited import audit
from gateway.errors import Conflict, NotFound
from gateway.jobs.model import Job, JobError
from gateway.jobs.store import JobStore

State = Literal["live", "ended", "dead"]


def job_routes(jobs: JobStore, clock: Clock) -> APIRouter:
    """Make the routes."""
    router = APIRouter(prefix="/admin/jobs", tags=["jobs"])

    @router.get("")
    async def list_jobs(
        state: State = "live",
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    ) -> dict[str, Any]:
        census = await jobs.census(now=clock.now())
        pools = {
            name: {"waiting": pool.waiting, "oldest_s": pool.oldest_s, "counts": dict(pool.counts)}
            for name, pool in census.pools.items()
        }
        found = await _found(jobs, state, limit)
        return {"object": "list", "data": [_shown(job) for job in found], "pools": pools}

    @router.get("/{job_id}")
    async def show_job(job_id: str) -> dict[str, Any]:
        job = await _find(jobs, job_id)
        return _shown_whole(job, await jobs.reasons(job.id))

    @router.post("/{job_id}/cancel")
    async def cancel_job(job_id: str, request: Request) -> dict[str, Any]:
        await _find(jobs, job_id)
        why = JobError("cancelled", "The job was cancelled by the operator.")
        await jobs.cancel(job_id, now=clock.now(), error=why)
        await audit(request, "job.cancel", job=job_id)
        return _shown(await _find(jobs, job_id))

    @router.post("/{job_id}/requeue")
    async def requeue_job(job_id: str, request: Request) -> dict[str, Any]:
        job = await _find(jobs, job_id)
        if not await jobs.requeue(job_id, now=clock.now()):
            raise Conflict(f"Only a failed job can be put back; this one is {job.status}.")
        await audit(request, "job.requeue", job=job_id)
        return _shown(await _find(jobs, job_id))

    return router


async def _found(jobs: JobStore, state: State, limit: int) -> list[Job]:
    match state:
        case "live":
            return await jobs.live(limit=limit)
        case "ended":
            return await jobs.ended(limit=limit)
        case "dead":
            names = [each["job"] for each in await jobs.dead(limit=limit)]
            return await jobs.find_all(dict.fromkeys(names))


async def _find(jobs: JobStore, job_id: str) -> Job:
    job = await jobs.find(job_id)
    if job is None:
        raise NotFound(f"No job with the id '{job_id[:200]}'.")
    return job


def _shown(job: Job) -> dict[str, Any]:
    """Give a job without its prompt."""
    return {
        "id": job.id,
        "kind": job.kind,
        "tenant": job.tenant,
        "pool": job.pool,
        "class": job.class_name,
        "status": job.status,
        "progress": job.progress,
        "created_at": job.created_at,
        "error": None
        if job.error is None
        else {"code": job.error.code, "message": job.error.message},
    }


def _shown_whole(job: Job, reasons: list[str]) -> dict[str, Any]:
    """Give a job with its payload and why it went back; of who asked, the id of the key alone."""
    payload = {k: v for k, v in job.payload.items() if k not in ("order", "principal")}
    return {
        **_shown(job),
        "attempts": job.attempts,
        "losses": job.losses,
        "fence": job.fence,
        "worker": job.worker,
        "replica": job.replica,
        "engine": job.engine,
        "claimed_at": job.claimed_at,
        "started_at": job.started_at,
        "ended_at": job.ended_at,
        "expires_at": job.expires_at,
        "deadline": job.deadline,
        "units": job.units,
        "request_id": job.request_id,
        "key_id": job.key_id,
        "result": dict(job.result),
        "payload": payload,
        "notes": dict(job.extra),
        "reasons": reasons,
    }
