"""When will a video be done? Learned from the videos that were done before.

The time of a video is nearly linear in its units (pixels x frames x steps), so a pool's service
time is `a + b * units`, fitted to its last videos; the wait is the work before it, spread over the
replicas. How good that is, is learned too: each video's first forecast is compared with what came
true, and the interval that is told is the one that would have held for 9 of 10 of the last ones.
"""

import asyncio
import bisect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from redis.asyncio import Redis

from gateway.jobs.model import JOBS, Job, JobStatus
from gateway.replies import answer

KEPT = 200
MOST_COUNTED = 500
COVERAGE = 0.90
FEWEST = 20  # below this many comparisons the interval is a wide guess
WIDE = (0.5, 2.5)
REMEMBERED_S = 2.0


@dataclass(frozen=True, slots=True)
class ServiceLaw:
    """Seconds of one video: `a + b * units`."""

    a: float
    b: float

    def seconds(self, units: float) -> float:
        """How long a video of so many units takes."""
        return max(self.a + self.b * units, 1e-3)


@dataclass(frozen=True, slots=True)
class Eta:
    """Unix seconds between which a job will probably (9 in 10) be done, and the likeliest."""

    earliest_at: float
    likely_at: float
    latest_at: float


@dataclass(frozen=True, slots=True)
class Prospect:
    """How many jobs are before one, and when it will be done (None: nothing is known yet)."""

    position: int
    eta: Eta | None


def fit(seen: Sequence[tuple[float, float]]) -> ServiceLaw | None:
    """Fit (units, seconds) by least squares with both terms at or above zero; None without data."""
    if not seen:
        return None
    n = len(seen)
    mean_x = sum(x for x, _ in seen) / n
    mean_y = sum(y for _, y in seen) / n
    spread = sum((x - mean_x) ** 2 for x, _ in seen)
    if spread <= (1e-6 * max(mean_x, 1.0)) ** 2 * n:
        return ServiceLaw(0.0, mean_y / mean_x) if mean_x > 0 else ServiceLaw(mean_y, 0.0)
    b = sum((x - mean_x) * (y - mean_y) for x, y in seen) / spread
    if b <= 0:
        return ServiceLaw(mean_y, 0.0)
    a = mean_y - b * mean_x
    return ServiceLaw(a, b) if a >= 0 else ServiceLaw(0.0, mean_y / mean_x)


def interval(ratios: Sequence[float], coverage: float = COVERAGE) -> tuple[float, float]:
    """Give the factors between which actual over forecast has lain in `coverage` of the cases.

    Order statistics of a sample of n leave (k+1)/(n+1) below the k-th, which makes the share right
    for the next one whatever the distribution.
    """
    n = len(ratios)
    if n < FEWEST:
        return WIDE
    ordered = sorted(ratios)
    tail = (1 - coverage) / 2
    low = _quantile(ordered, tail)
    high = _quantile(ordered, 1 - tail)
    return low, high


def _quantile(ordered: Sequence[float], p: float) -> float:
    place = p * (len(ordered) + 1) - 1
    if place <= 0:
        return ordered[0]
    if place >= len(ordered) - 1:
        return ordered[-1]
    below = int(place)
    return ordered[below] + (place - below) * (ordered[below + 1] - ordered[below])


def finish_in_s(
    law: ServiceLaw,
    own_units: float,
    before: Sequence[float],
    running_left_s: Sequence[float],
    replicas: int,
) -> float:
    """Say in how many seconds a job is done: each goes, in order, to the first free replica."""
    return starts_in_s(law, before, running_left_s, replicas)[-1] + law.seconds(own_units)


def starts_in_s(
    law: ServiceLaw, waiting: Sequence[float], running_left_s: Sequence[float], replicas: int
) -> list[float]:
    """Say in how many seconds each of those who wait starts, and one who comes after them."""
    free = sorted([*running_left_s, *([0.0] * max(replicas - len(running_left_s), 0))])
    free = free[: max(replicas, 1)] or [0.0]
    starts = []
    for units in waiting:
        starts.append(free.pop(0))
        bisect.insort(free, starts[-1] + law.seconds(units))
    return [*starts, free[0]]


@dataclass(frozen=True, slots=True)
class _Line:
    """Who waits for a pool: the places of some of them, and in how many seconds each starts.

    The first some hundred are followed one by one; behind them each adds `more_s`.
    """

    places: Mapping[str, int]
    starts_s: Sequence[float]
    more_s: float

    def start_s(self, place: int) -> float:
        """In how many seconds the one at a place starts."""
        last = len(self.starts_s) - 1
        return self.starts_s[min(place, last)] + max(place - last, 0) * self.more_s


class Outlook:
    """Forecasts of one process, from what all workers have written down."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._known: dict[str, tuple[float, ServiceLaw | None, tuple[float, float]]] = {}

    async def learn(self, job: Job, *, service_s: float | None, ended_at: float) -> None:
        """Write down how long a video took (if seen as a whole), and how good its forecast was."""
        async with self._redis.pipeline(transaction=False) as batch:
            if service_s is not None:
                key = f"{JOBS}service:{job.pool}"
                batch.lpush(key, f"{job.units!r} {service_s!r}")
                batch.ltrim(key, 0, KEPT - 1)
            forecast_s = float(job.extra.get("forecast_s", 0) or 0)
            if forecast_s > 0:
                ratio = (ended_at - job.created_at) / forecast_s
                batch.lpush(f"{JOBS}ratios:{job.pool}", repr(ratio))
                batch.ltrim(f"{JOBS}ratios:{job.pool}", 0, KEPT - 1)
            await batch.execute()

    async def law(self, pool: str) -> tuple[ServiceLaw | None, tuple[float, float]]:
        """Give a pool's law and the factors of its interval."""
        loop_now = asyncio.get_running_loop().time()
        known = self._known.get(pool)
        if known is not None and loop_now - known[0] < REMEMBERED_S:
            return known[1], known[2]
        async with self._redis.pipeline(transaction=False) as batch:
            batch.lrange(f"{JOBS}service:{pool}", 0, KEPT - 1)
            batch.lrange(f"{JOBS}ratios:{pool}", 0, KEPT - 1)
            seen, ratios = await batch.execute()
        pairs = [(float(x), float(y)) for x, y in (each.split() for each in seen)]
        law, factors = fit(pairs), interval([float(each) for each in ratios])
        self._known[pool] = (loop_now, law, factors)
        return law, factors

    async def left_s(self, job: Job, progress: int) -> float | None:
        """Say how long a video that has come to `progress` percent still takes; None: unknown."""
        law, _ = await self.law(job.pool)
        return None if law is None else law.seconds(job.units) * (1 - progress / 100)

    async def earliest_s(
        self, pool: str, rank: int, units: float, *, replicas: int
    ) -> float | None:
        """Say how soon a new job could be done at best; None while nothing is known."""
        law, (low, _) = await self.law(pool)
        if law is None or replicas == 0:
            return None
        score = (rank + 1) * 1e12
        ahead = await answer(self._redis.zcount(f"{JOBS}waiting:{pool}", "-inf", f"({score}"))
        before = await self._units_before(pool, int(ahead))
        return low * finish_in_s(law, units, before, [], replicas)

    async def prospects(
        self, jobs: Sequence[Job], replicas: Mapping[str, int], *, now: float
    ) -> list[Prospect]:
        """Say for each job when it will be done; writes down the first forecast of each."""
        lines = {}
        for pool in {job.pool for job in jobs if job.status is JobStatus.QUEUED}:
            mine = [j.id for j in jobs if j.pool == pool and j.status is JobStatus.QUEUED]
            lines[pool] = await self._line(pool, mine, replicas.get(pool, 0), now)
        return [await self._prospect(job, lines.get(job.pool), now) for job in jobs]

    async def _line(self, pool: str, ids: Sequence[str], replicas: int, now: float) -> _Line:
        async with self._redis.pipeline(transaction=False) as batch:
            for each in ids:
                batch.zrank(f"{JOBS}waiting:{pool}", each)
            found = await batch.execute()
        places = {id_: int(rank or 0) for id_, rank in zip(ids, found, strict=True)}
        law, _ = await self.law(pool)
        if law is None or replicas == 0:
            return _Line(places, (), 0.0)
        units = await self._units_before(pool, max(places.values()))
        running = await self._running_left_s(pool, law, now)
        starts = starts_in_s(law, units[:MOST_COUNTED], running, replicas)
        mean_s = law.seconds(sum(units) / len(units)) if units else 0.0
        return _Line(places, starts, mean_s / replicas)

    async def _prospect(self, job: Job, line: _Line | None, now: float) -> Prospect:
        if job.has_ended:
            return Prospect(0, None)
        law, (low, high) = await self.law(job.pool)
        if line is None or job.status is JobStatus.IN_PROGRESS:
            if law is None:
                return Prospect(0, None)
            since = job.started_at or job.claimed_at or now
            whole_s = law.seconds(job.units)
            return Prospect(0, _eta(since, whole_s, low, high, now))
        place = line.places[job.id]
        if law is None or not line.starts_s:
            return Prospect(place, None)
        forecast_s = now + line.start_s(place) + law.seconds(job.units) - job.created_at
        key = f"sluice:job:{job.id}"
        if "forecast_s" not in job.extra and await answer(self._redis.exists(key)):
            await answer(self._redis.hsetnx(key, "forecast_s", repr(forecast_s)))
        return Prospect(place, _eta(job.created_at, forecast_s, low, high, now))

    async def _units_before(self, pool: str, ahead: int) -> list[float]:
        """Give the units of those who wait in front; beyond some hundred, their mean stands in."""
        if ahead <= 0:
            return []
        counted = min(ahead, MOST_COUNTED)
        ids = await answer(self._redis.zrange(f"{JOBS}waiting:{pool}", 0, counted - 1))
        units = await self._fields(ids, "units")
        found = [float(each[0]) for each in units if each[0] is not None]
        if found and ahead > counted:
            found += [sum(found) / len(found)] * (ahead - counted)
        return found

    async def _running_left_s(self, pool: str, law: ServiceLaw, now: float) -> list[float]:
        slots = await answer(self._redis.hvals(f"{JOBS}slots"))
        left = []
        for name, units, began in await self._fields(slots, "pool", "units", "claimed_at"):
            if units is None or began is None:
                continue
            if name is not None and name.decode() == pool:
                left.append(max(law.seconds(float(units)) - (now - float(began)), 0.0))
        return left

    async def _fields(self, ids: Sequence[bytes], *names: str) -> list[list[bytes | None]]:
        if not ids:
            return []
        async with self._redis.pipeline(transaction=False) as batch:
            for each in ids:
                batch.hmget(f"sluice:job:{each.decode()}", list(names))
            found: list[list[bytes | None]] = await batch.execute()
        return found


def _eta(since: float, whole_s: float, low: float, high: float, now: float) -> Eta:
    """Give the interval of a span that began at `since`; nothing is ever forecast for the past."""
    likely = max(since + whole_s, now)
    return Eta(max(since + low * whole_s, now), likely, max(since + high * whole_s, likely))
