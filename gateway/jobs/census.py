"""How many jobs wait, for how long, and what has become of the others? For operators.

The counts live in the store and are the same whoever is asked: take the greatest, not the sum, over
the processes that tell them.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from redis.asyncio import Redis

from gateway.exposition import Form, tell
from gateway.jobs.model import JOBS
from gateway.replies import answer

COUNTED = {
    "made": "Jobs that were taken on.",
    "completed": "Jobs that ended well.",
    "failed": "Jobs that failed or were cancelled.",
    "retries": "Times that a job went back to the queue.",
    "dead": "Jobs that failed too often.",
    "wait_s": "Seconds that jobs which have ended had waited for their first worker.",
    "service_s": "Seconds from the last claim of jobs which have ended well to their end.",
}


@dataclass(frozen=True, slots=True)
class PoolCensus:
    """One pool: who waits, the age of the oldest in seconds, and the counts since ever."""

    waiting: int
    oldest_s: float
    counts: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Census:
    """All pools by name, and how many replicas are taken by jobs."""

    pools: Mapping[str, PoolCensus]
    slots: int
    live: int


async def take_census(redis: Redis, *, now: float) -> Census:
    """Count; raises redis.exceptions.RedisError."""
    names = sorted(each.decode() for each in await answer(redis.smembers(f"{JOBS}pools")))
    async with redis.pipeline(transaction=False) as batch:
        batch.hgetall(f"{JOBS}stats")
        batch.hlen(f"{JOBS}slots")
        batch.zcard(f"{JOBS}live")
        for name in names:
            batch.zcard(f"{JOBS}waiting:{name}")
            batch.zrange(f"{JOBS}waiting:{name}", 0, 0)
        stats, slots, live, *rest = await batch.execute()
    pools = {}
    for index, name in enumerate(names):
        waiting, first = rest[2 * index], rest[2 * index + 1]
        oldest_s = 0.0
        if first:
            made = await answer(redis.hget(f"sluice:job:{first[0].decode()}", "created_at"))
            oldest_s = max(now - float(made), 0.0) if made else 0.0
        counts = {each: float(stats.get(f"{each}:{name}".encode(), 0)) for each in COUNTED}
        pools[name] = PoolCensus(waiting, oldest_s, counts)
    return Census(pools, slots, live)


def metrics_of(census: Census, form: Form = Form.TEXT) -> bytes:
    """Give the census as Prometheus reads it."""
    registry = CollectorRegistry()
    registry.register(_Told(census))
    return tell(registry, form)


class _Told(Collector):
    """A census as metrics."""

    def __init__(self, census: Census) -> None:
        self._census = census

    def collect(self) -> Iterator[Metric]:
        """Give each metric with a sample per pool."""
        census = self._census
        waiting = GaugeMetricFamily("sluice_jobs_waiting", "Jobs that wait.", labels=["pool"])
        oldest = GaugeMetricFamily(
            "sluice_jobs_oldest_wait_seconds", "Age of the job served next.", labels=["pool"]
        )
        for name, pool in census.pools.items():
            waiting.add_metric([name], pool.waiting)
            oldest.add_metric([name], pool.oldest_s)
        yield waiting
        yield oldest
        yield GaugeMetricFamily("sluice_jobs_slots", "Replicas taken by jobs.", census.slots)
        yield GaugeMetricFamily("sluice_jobs_live", "Jobs that have not ended.", census.live)
        for each, text in COUNTED.items():
            shown = f"sluice_jobs_{each.replace('_s', '_seconds')}"
            counter = CounterMetricFamily(shown, text, labels=["pool"])
            for name, pool in census.pools.items():
                counter.add_metric([name], pool.counts[each])
            yield counter
