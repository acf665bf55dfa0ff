"""Two pools of one fleet, live: a real store, and units that are there in memory alone."""

import asyncio
from typing import Any

from redis.asyncio import Redis

from autoscale.actuate.dry import DryActuator
from autoscale.config import parse
from autoscale.explain import told
from autoscale.journal import Journal
from autoscale.loop import Autoscaler
from backends import backlogs, signals
from backends.backlogs import PoolBacklog
from backends.clock import SystemClock
from backends.registry import Registry
from backends.signals import Counters, Signal
from backends.slo import MLPERF_CLASSES

CALLS, JOBS = "llama2-70b", "wan2.2"


def _scaler(redis: Redis, actuator: DryActuator, **pool: Any) -> Autoscaler:
    quick = {"most": 12, "up_area_s": 0.05, "down_area_s": 0.5}
    config = parse(
        {
            "pools": [
                {"model": CALLS, "cold_start_s": 20.0, "policy": quick},
                {
                    "model": JOBS,
                    "cold_start_s": 20.0,
                    "policy": {**quick, "least": 0, "idle_s": 0.0},
                },
            ],
            "tick_s": 0.2,
            **pool,
        }
    )
    classes = {each.name: each for each in MLPERF_CLASSES}
    return Autoscaler(
        config,
        classes,
        store=redis,
        registry=Registry(redis),
        actuator=actuator,
        clock=SystemClock(),
    )


class _Offered:
    """Calls that are offered: work of so many units, tick after tick."""

    def __init__(self, redis: Redis, scaler: Autoscaler) -> None:
        self._redis, self._scaler = redis, scaler
        self._clock = SystemClock()
        self._last, self._work = self._clock.now(), 0.0

    async def ticks(self, count: int, units: float, jobs_s: float, within_s: float) -> None:
        """Run ticks while jobs of so much work wait, due in so many seconds."""
        for _ in range(count):
            now = self._clock.now()
            self._work += (now - self._last) * units * 0.9
            self._last = now
            counters = Counters(offered=round(self._work * 40), offered_work_s=self._work)
            await signals.write(
                self._redis, Signal("g", now, 1.0, {(CALLS, "server", "t"): counters})
            )
            due = ((now + within_s, jobs_s),) if jobs_s else ()
            await backlogs.write(self._redis, [PoolBacklog(JOBS, now, due)])
            await self._scaler.tick()
            await asyncio.sleep(0.02)


async def test_jobs_alone_are_given_units_by_their_deadlines(redis: Redis) -> None:
    actuator = DryActuator(SystemClock())
    offered = _Offered(redis, _scaler(redis, actuator))
    await offered.ticks(3, 0.0, 0.0, 1000.0)
    assert not await actuator.units(JOBS)
    await offered.ticks(3, 0.0, 2000.0, 1000.0)
    assert 2 <= len(await actuator.units(JOBS)) <= 4
    assert (await Journal(redis).last(pool=JOBS))[0]["guard"] == "deadline"


async def test_calls_take_the_units_of_jobs_when_they_rise(redis: Redis) -> None:
    actuator = DryActuator(SystemClock())
    shared = [{"calls": CALLS, "jobs": JOBS, "swap_s": 2.0, "empties_s": 1.0}]
    offered = _Offered(redis, _scaler(redis, actuator, shared=shared))
    await offered.ticks(10, 1.0, 4000.0, 1000.0)
    before = {pool: len(await actuator.units(pool)) for pool in (CALLS, JOBS)}
    assert before[JOBS] >= 4
    await offered.ticks(25, 4.0, 4000.0, 1000.0)
    after = {pool: len(await actuator.units(pool)) for pool in (CALLS, JOBS)}
    assert after[CALLS] >= before[CALLS] + 2
    found = await Journal(redis).last(pool=JOBS, count=100)
    swaps = [each for each in found if each["guard"] == "swap" and each["drain"]]
    assert swaps
    assert "changes its model" in told(swaps[0])


async def test_a_pool_that_cannot_be_listed_stills_the_one_it_shares_with(redis: Redis) -> None:
    class Half(DryActuator):
        async def units(self, pool: str) -> Any:
            if pool == JOBS:
                raise OSError("away")
            return await super().units(pool)

    actuator = Half(SystemClock())
    shared = [{"calls": CALLS, "jobs": JOBS}]
    offered = _Offered(redis, _scaler(redis, actuator, shared=shared))
    await offered.ticks(3, 3.0, 0.0, 1000.0)
    assert not await actuator.units(CALLS)
