"""How much work waits, and when is it due? Told to the autoscaler every few seconds.

Videos alone: the rows of a batch are calls, and are counted with those.
"""

import logging
import math

from redis.asyncio import Redis
from redis.exceptions import RedisError

from backends import backlogs
from backends.backlogs import PoolBacklog
from backends.clock import Clock
from gateway.jobs.model import JOBS, JobKind
from gateway.jobs.outlook import Outlook
from gateway.replies import answer

MOST_READ = 500  # beyond so many, those that were read stand for the others
SUMMED_S = 60.0  # what is due within the same minute is one figure
UNKNOWN_S = 60.0  # of a video, until one has been done

_log = logging.getLogger(__name__)


class Backlogs:
    """Reads what waits and publishes it; every gateway does, so that one that lives is enough."""

    def __init__(self, redis: Redis, outlook: Outlook, clock: Clock) -> None:
        self._redis = redis
        self._outlook = outlook
        self._clock = clock

    async def take(self) -> list[PoolBacklog]:
        """Read what waits, by pool; raises RedisError."""
        names = sorted(each.decode() for each in await answer(self._redis.smembers(f"{JOBS}pools")))
        return [await self._of(name) for name in names]

    async def run(self) -> None:
        """Publish for ever; copes with a store that is away."""
        ok = True
        while True:
            try:
                await backlogs.write(self._redis, await self.take())
                ok = True
            except RedisError as error:
                if ok:
                    _log.warning("backlogs are not published: %s", error)
                ok = False
            await self._clock.sleep(backlogs.EVERY_S)

    async def _of(self, pool: str) -> PoolBacklog:
        key = f"{JOBS}waiting:{pool}"
        waiting = int(await answer(self._redis.zcard(key)))
        ids = await answer(self._redis.zrange(key, 0, MOST_READ - 1))
        async with self._redis.pipeline(transaction=False) as batch:
            for each in ids:
                batch.hmget(f"sluice:job:{each.decode()}", "kind", "units", "deadline")
            found = await batch.execute() if ids else []
        law, _ = await self._outlook.law(pool)
        weight = waiting / len(ids) if ids else 1.0
        due: dict[float, float] = {}
        for kind, units, deadline in found:
            if kind is None or kind.decode() != JobKind.VIDEO.value or deadline is None:
                continue
            at = math.floor(float(deadline) / SUMMED_S) * SUMMED_S
            takes_s = UNKNOWN_S if law is None else law.seconds(float(units))
            due[at] = due.get(at, 0.0) + takes_s * weight
        return PoolBacklog(pool, self._clock.now(), tuple(sorted(due.items())))
