"""Processes that share a store share what they are asked for, and one choice of replicas."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from redis.asyncio import Redis

from backends.clock import SystemClock
from gateway.agreement import KEY, Agreement
from gateway.levels import Demand, Level
from gateway.pool_state import PoolState
from tests.waiting import eventually

MODEL = "m"


@asynccontextmanager
async def process(redis: Redis, name: str, **asked: float) -> AsyncIterator[PoolState]:
    """One process that is asked for so much work by class."""
    state = PoolState.of(MODEL)
    now = time.time()
    state.demand = {class_name: Demand(per_s, now) for class_name, per_s in asked.items()}
    agreement = Agreement(redis, lambda: {MODEL: state}, SystemClock(), name)
    running = asyncio.create_task(agreement.run())
    try:
        yield state
    finally:
        running.cancel()
        await asyncio.wait([running])
        await agreement.leave()


async def test_each_hears_what_the_others_are_asked_for(redis: Redis) -> None:
    async with process(redis, "a", interactive=2.0) as one, process(redis, "b", batch=5.0) as two:
        await eventually(
            lambda: set(one.others) == {"batch"} and set(two.others) == {"interactive"}
        )
        assert 0 < one.others["batch"] <= 5.0


async def test_the_first_by_name_chooses_for_all(redis: Redis) -> None:
    async with process(redis, "a") as one, process(redis, "b") as two:
        one.kept_for = {"replica": Level("interactive", alone=True)}
        two.kept_for = {"replica": Level("batch")}
        await eventually(lambda: two.agreed == {"replica": Level("interactive", alone=True)})
        assert one.agreed is None


async def test_one_that_leaves_is_forgotten_and_the_next_chooses(redis: Redis) -> None:
    async with process(redis, "b") as two:
        async with process(redis, "a", interactive=1.0) as one:
            one.kept_for = {"replica": Level("interactive")}
            await eventually(lambda: two.agreed is not None)
        await eventually(lambda: two.agreed is None and not two.others)


async def test_what_cannot_be_read_is_passed_over(redis: Redis) -> None:
    at = time.time()
    for number, text in enumerate((
        b"\xff{", b"[]", b'{"at": "now"}', b'{"at": %f, "demand": {"m": 3}, "kept": {}}' % at,
        b'{"at": %f, "demand": {}, "kept": {"m": {"replica": ["interactive"]}}}' % at,
    )):  # fmt: skip
        await redis.hset(KEY, f"0{number}", text)
    await redis.hset(KEY, b"\xff", b"{}")
    async with process(redis, "b") as two, process(redis, "c", batch=5.0):
        await eventually(lambda: set(two.others) == {"batch"})
        assert two.agreed is None
