"""How do jobs get into the store, to a worker, and to their one end?

A job is the hash `sluice:job:<id>`. It waits in the stream of its pool and class (consumer group
`workers`), is leased in `sluice:jobs:leases`, and every write of a worker carries the fencing token
of its claim. All methods raise `redis.exceptions.RedisError` while the store is away, and all may
be repeated.
"""

from collections.abc import Awaitable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import orjson
from redis.asyncio import Redis

from gateway.jobs.census import Census, take_census
from gateway.jobs.model import (
    Claim,
    Counter,
    Job,
    JobError,
    JobKind,
    JobStatus,
    NewJob,
    Offer,
    Once,
    Standing,
    Submitted,
    Taken,
    job_of,
)
from gateway.jobs.scripts import Scripts

LONGEST_SILENCE_S = 5.0
HIDDEN_S = 600.0
JOBS = "sluice:jobs:"


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


class JobStore:
    """Jobs in Redis."""

    def __init__(self, redis: Redis, terms: Terms | None = None) -> None:
        self.redis = redis
        self.terms = terms or Terms()
        self.scripts = Scripts(redis)

    async def submit(self, new: NewJob, *, now: float, known_only: bool = False) -> Submitted:
        """Take a job on, once; with `known_only` only give one that was taken on before."""
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
        taken, job_id = await self.scripts.call("submit", orjson.dumps(order))
        verdict = Taken(_text(taken))
        known = verdict in (Taken.MADE, Taken.REPLAYED, Taken.CONFLICT)
        used = float(job_id) if verdict is Taken.QUOTA else 0.0
        return Submitted(verdict, _text(job_id) if known else "", used)

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
        job = job_of(_text(job_id), _pairs(flat))
        return Claim(job, int(fence), _text(replica) or None)

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
        return Standing(_text(await self.scripts.call("beat", *asked)))

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
        return _text(await self.scripts.call("finish", *asked)) == "ok"

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
        found = _text(await self.scripts.call("release", *asked))
        return None if found == "lost" else JobStatus(found)

    async def cancel(
        self, job_id: str, *, now: float, error: JobError | None = None
    ) -> JobStatus | None:
        """End a job in whatever state it is; gives the status before, None where there is none."""
        why = error or JobError("cancelled", "The job was cancelled.")
        found = await self.scripts.call("cancel", job_id, now, why.code, why.message)
        return JobStatus(_text(found)) if found else None

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

    async def find(self, job_id: str) -> Job | None:
        """Give a job."""
        found = await _answer(self.redis.hgetall(f"sluice:job:{job_id}"))
        return job_of(job_id, _decoded(found)) if found.get(b"payload") else None

    async def find_all(self, job_ids: Iterable[str]) -> list[Job]:
        """Give those of these jobs that are there, in their order."""
        ids = list(job_ids)
        async with self.redis.pipeline(transaction=False) as batch:
            for each in ids:
                batch.hgetall(f"sluice:job:{each}")
            found = await batch.execute()
        pairs = zip(ids, found, strict=True)
        return [job_of(id_, _decoded(each)) for id_, each in pairs if each.get(b"payload")]

    async def page(
        self, kind: JobKind, tenant: str, *, after: str | None, limit: int, newest_first: bool
    ) -> tuple[list[Job], bool]:
        """Give a tenant's jobs in order of creation, from behind `after`, and whether more follow.

        Ids order themselves, so that the page after an id that is gone is still the right one.
        """
        start, end = ("+", "-") if newest_first else ("-", "+")
        ids = await _answer(
            self.redis.zrange(
                index_key(kind, tenant),
                cast(Any, f"({after}" if after else start),
                cast(Any, end),
                desc=newest_first,
                bylex=True,
                offset=0,
                num=limit + 1,
            )
        )
        names = [_text(each) for each in ids]
        return await self.find_all(names[:limit]), len(names) > limit

    async def census(self, *, now: float) -> Census:
        """Count who waits and what has become of the others."""
        return await take_census(self.redis, now=now)

    async def live(self, *, limit: int = 100) -> list[Job]:
        """Give jobs that have not ended, of all tenants, oldest first."""
        ids = await _answer(self.redis.zrange(f"{JOBS}live", 0, limit - 1))
        return await self.find_all([_text(each) for each in ids])

    async def ended(self, *, limit: int = 100) -> list[Job]:
        """Give the jobs of all tenants that ended last, newest first."""
        found = await _answer(self.redis.xrevrange(f"{JOBS}ended", count=limit))
        return await self.find_all([_text(fields[b"job"]) for _, fields in found])

    async def dead(self, *, limit: int = 100) -> list[dict[str, str]]:
        """Give the jobs that failed too often, newest first: `job`, `at`, `reason`."""
        found = await _answer(self.redis.xrevrange(f"{JOBS}dead", count=limit))
        return [_decoded(fields) for _, fields in found]

    async def requeue(self, job_id: str, *, now: float) -> bool:
        """Have a failed job done after all; False unless it has failed."""
        return bool(await self.scripts.call("requeue", job_id, now))

    async def reasons(self, job_id: str) -> list[str]:
        """Tell why a job went back to the queue, oldest first: `<instant> <reason>`."""
        found = await _answer(self.redis.lrange(f"sluice:job:{job_id}:reasons", 0, -1))
        return [_text(each) for each in found]


def index_key(kind: JobKind, tenant: str) -> str:
    """Name the index of a tenant's jobs."""
    return f"{JOBS}index:{kind}:{tenant}"


def _once(once: Once) -> dict[str, Any]:
    return {"key": once.key, "hash": once.digest, "ttl_s": once.ttl_s, "ask": once.ask}


def _pairs(flat: Sequence[bytes]) -> dict[str, str]:
    return {_text(k): _text(v) for k, v in zip(flat[::2], flat[1::2], strict=True)}


def _decoded(found: Mapping[bytes, bytes]) -> dict[str, str]:
    return {k.decode(): v.decode() for k, v in found.items()}


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value


async def _answer(reply: Awaitable[Any] | Any) -> Any:
    """Wait for a reply: redis-py types its commands for its blocking client, too."""
    return await cast(Awaitable[Any], reply)
