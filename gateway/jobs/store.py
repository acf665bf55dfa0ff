"""How do jobs get into the store, to a worker, and to their one end?

A job is the hash `sluice:job:<id>`. It waits in the stream of its pool and class (consumer group
`workers`), is leased in `sluice:jobs:leases`, and every write of a worker carries the fencing token
of its claim. All methods raise `redis.exceptions.RedisError` while the store is away, and all may
be repeated.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from redis.asyncio import Redis

from gateway.jobs.model import (
    Claim,
    Counter,
    Job,
    JobError,
    JobStatus,
    NewJob,
    Offer,
    Once,
    Standing,
    Submitted,
    Taken,
    job_of,
)
from gateway.jobs.reading import JobReader, index_key
from gateway.jobs.scripts import Scripts
from gateway.replies import text

LONGEST_SILENCE_S = 5.0
HIDDEN_S = 600.0


@dataclass(frozen=True, slots=True)
class Terms:
    """How long a claim lasts unheard, and how often a job may fail or lose its worker."""

    lease_s: float = 15.0
    attempts: int = 3
    losses: int = 10


@dataclass(frozen=True, slots=True)
class Ticked:
    """What a tick did: leases that ended, jobs whose pause was over, deadlines, freed slots."""

    lost: int
    resumed: int
    late: int
    slots: int


class JobStore(JobReader):
    """Jobs in Redis, from the first word of them to their one end."""

    def __init__(self, redis: Redis, terms: Terms | None = None) -> None:
        super().__init__(redis)
        self.terms = terms or Terms()
        self.scripts = Scripts(redis)

    async def submit(self, new: NewJob, *, now: float, known_only: bool = False) -> Submitted:
        """Take a job on, once; with `known_only` only give one that was taken on before."""
        order = _order(new, now=now, known_only=known_only)
        # What else is said depends on the answer: a job's id, or what of the quota is used.
        answer, more = await self.scripts.call("submit", orjson.dumps(order))
        taken = Taken(text(answer))
        known = taken in (Taken.MADE, Taken.REPLAYED, Taken.CONFLICT)
        used = float(more) if taken is Taken.QUOTA else 0.0
        return Submitted(taken, text(more) if known else "", used)

    async def claim(
        self, worker: str, offers: Sequence[Offer], *, nonce: str, now: float
    ) -> Claim | None:
        """Give a worker the next job that it can take, leased from `now`."""
        asked = {
            "now": now,
            "lease_s": self.terms.lease_s,
            "worker": worker,
            "nonce": nonce,
            "pools": [
                {
                    "pool": offer.pool,
                    "classes": offer.classes,
                    "replicas": False if offer.replicas is None else offer.replicas,
                }
                for offer in offers
            ],
        }
        found = await self.scripts.call("claim", orjson.dumps(asked))
        if not found:
            return None
        job_id, fence, replica, flat = found
        job = job_of(text(job_id), _pairs(flat))
        return Claim(job, int(fence), text(replica) or None)

    async def beat(
        self,
        claim: Claim,
        *,
        now: float,
        progress: int = 0,
        started: bool = False,
        engine: str = "",
    ) -> Standing:
        """Renew a claim; tell progress (percent), and what the engine calls the work."""
        asked = (claim.job.id, claim.fence, now, self.terms.lease_s, progress, int(started), engine)
        return Standing(text(await self.scripts.call("beat", *asked)))

    async def complete(self, claim: Claim, result: Mapping[str, Any], *, now: float) -> bool:
        """End a job well; False when the claim was lost, and nothing was written."""
        return await self._end(claim, JobStatus.COMPLETED, orjson.dumps(result), b"", now)

    async def fail(
        self,
        claim: Claim,
        error: JobError,
        *,
        now: float,
        result: Mapping[str, Any] | None = None,
    ) -> bool:
        """End a job badly; False when the claim was lost."""
        kept = b"" if result is None else orjson.dumps(result)
        return await self._end(claim, JobStatus.FAILED, kept, error.encode(), now)

    async def _end(
        self, claim: Claim, status: JobStatus, result: bytes, error: bytes, now: float
    ) -> bool:
        asked = (claim.job.id, claim.fence, now, str(status), result, error)
        return text(await self.scripts.call("finish", *asked)) == "ok"

    async def release(
        self,
        claim: Claim,
        counter: Counter,
        reason: str,
        *,
        now: float,
        delay_s: float = 0.0,
        keep_replica: bool = False,
    ) -> JobStatus | None:
        """Give a job back to the queue; gives its status then, None when the claim was lost.

        It fails when it has failed too often. With `keep_replica` it goes back to where it was.
        """
        asked = (
            *(claim.job.id, claim.fence, now, str(counter), self.terms.attempts),
            *(reason[:500], delay_s, int(keep_replica)),
        )
        found = text(await self.scripts.call("release", *asked))
        return None if found == "lost" else JobStatus(found)

    async def cancel(
        self, job_id: str, *, now: float, error: JobError | None = None
    ) -> JobStatus | None:
        """End a job in whatever state it is; gives the status before, None where there is none."""
        why = error or JobError("cancelled", "The job was cancelled.")
        found = await self.scripts.call("cancel", job_id, now, why.code, why.message)
        return JobStatus(text(found)) if found else None

    async def tick(self, *, now: float) -> Ticked:
        """Do what is due: leases, pauses, deadlines. Anybody may, as often as they like."""
        terms = self.terms
        done = await self.scripts.call("tick", now, terms.lease_s, terms.losses, LONGEST_SILENCE_S)
        return Ticked(*map(int, done))

    async def forget(self, job: Job) -> None:
        """Remove the record of a job that has ended."""
        await self.scripts.call("forget", job.id, index_key(job.kind, job.tenant))

    async def hide(self, job: Job, *, now: float) -> None:
        """Take an ended job out of its tenant's sight; the record goes within minutes.

        It is not removed at once, so that a worker that is still busy with it learns that it ended.
        """
        await self.scripts.call("hide", job.id, index_key(job.kind, job.tenant), now + HIDDEN_S)

    async def requeue(self, job_id: str, *, now: float) -> bool:
        """Have a failed job done after all; False unless it has failed."""
        return bool(await self.scripts.call("requeue", job_id, now))


def _order(new: NewJob, *, now: float, known_only: bool) -> dict[str, Any]:
    """Word a new job for the script: `fields` are the hash, the rest is how it is taken on."""
    fields = {
        "kind": str(new.kind),
        "tenant": new.tenant,
        "pool": new.pool,
        "class": new.class_name,
        "rank": str(new.rank),
        "payload": orjson.dumps(new.payload).decode(),
        "units": repr(float(new.units)),
        "deadline": f"{new.deadline:.6f}",
        "ttl_s": repr(float(new.ttl_s)),
        "key_id": new.key_id,
        "request_id": new.request_id,
        "traceparent": new.traceparent,
        "at_deadline": "tell" if new.tells_deadline else "end",
    }
    order: dict[str, Any] = {
        "id": new.id,
        "now": now,
        "fields": fields,
        "index": index_key(new.kind, new.tenant),
        "deadline": new.deadline,
        "most_waiting": new.most_waiting,
        "known_only": known_only,
    }
    for name, once in (("idempotency", new.idempotency), ("retried", new.retried)):
        if once is not None:
            order[name] = _once(once)
    if new.quota is not None:
        quota = new.quota
        order["quota"] = {
            "key": quota.key,
            "units": quota.units,
            "limit": quota.limit,
            "ttl_s": quota.ttl_s,
        }
        fields["quota_key"] = quota.key
    return order


def _once(once: Once) -> dict[str, Any]:
    return {"key": once.key, "hash": once.digest, "ttl_s": once.ttl_s, "ask": once.ask}


def _pairs(flat: Sequence[bytes]) -> dict[str, str]:
    return {text(k): text(v) for k, v in zip(flat[::2], flat[1::2], strict=True)}
