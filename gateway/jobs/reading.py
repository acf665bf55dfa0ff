"""Which jobs are there, whose are they, and what is known of them?"""

from collections.abc import Iterable, Mapping
from typing import Any, cast

from redis.asyncio import Redis

from gateway.jobs.census import Census, take_census
from gateway.jobs.model import JOBS, Job, JobKind, job_of
from gateway.replies import answer, text


class JobReader:
    """Jobs as they lie in the store; methods raise `redis.exceptions.RedisError` while it is away.

    Nothing here changes a job: that is `JobStore`'s, which is a reader, too.
    """

    def __init__(self, redis: Redis) -> None:
        self.redis = redis

    async def find(self, job_id: str) -> Job | None:
        """Give a job."""
        found = await answer(self.redis.hgetall(f"sluice:job:{job_id}"))
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
        ids = await answer(
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
        names = [text(each) for each in ids]
        return await self.find_all(names[:limit]), len(names) > limit

    async def census(self, *, now: float) -> Census:
        """Count who waits and what has become of the others."""
        return await take_census(self.redis, now=now)

    async def live(self, *, limit: int = 100) -> list[Job]:
        """Give jobs that have not ended, of all tenants, oldest first."""
        ids = await answer(self.redis.zrange(f"{JOBS}live", 0, limit - 1))
        return await self.find_all([text(each) for each in ids])

    async def ended(self, *, limit: int = 100) -> list[Job]:
        """Give the jobs of all tenants that ended last, newest first."""
        found = await answer(self.redis.xrevrange(f"{JOBS}ended", count=limit))
        return await self.find_all([text(fields[b"job"]) for _, fields in found])

    async def dead(self, *, limit: int = 100) -> list[dict[str, str]]:
        """Give the jobs that failed too often, newest first: `job`, `at`, `reason`."""
        found = await answer(self.redis.xrevrange(f"{JOBS}dead", count=limit))
        return [_decoded(fields) for _, fields in found]

    async def reasons(self, job_id: str) -> list[str]:
        """Tell why a job went back to the queue, oldest first: `<instant> <reason>`."""
        found = await answer(self.redis.lrange(f"sluice:job:{job_id}:reasons", 0, -1))
        return [text(each) for each in found]


def index_key(kind: JobKind, tenant: str) -> str:
    """Name the index of a tenant's jobs."""
    return f"{JOBS}index:{kind}:{tenant}"


def _decoded(found: Mapping[bytes, bytes]) -> dict[str, str]:
    return {k.decode(): v.decode() for k, v in found.items()}
