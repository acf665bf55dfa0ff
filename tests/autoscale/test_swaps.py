"""Units that change their model: what a leader that takes over knows of them. The store is real."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from enum import StrEnum

import pytest
from redis.asyncio import Redis

from autoscale.actuate.unit import Unit, UnitState
from autoscale.config import parse
from autoscale.leader import KEY
from autoscale.loop import Autoscaler
from autoscale.observe import Standing
from autoscale.swaps import Change, Exchange, Swaps, underway
from backends import autoscaling, backlogs, signals
from backends.backlogs import PoolBacklog
from backends.clock import SystemClock
from backends.registry import Registry
from backends.signals import Counters, Signal
from backends.slo import MLPERF_CLASSES

CALLS, JOBS = "llama2-70b", "wan2.2"
MOST = {CALLS: 6, JOBS: 4}


def _units(pool: str, *names: str) -> tuple[Unit, ...]:
    return tuple(Unit(name, pool, UnitState.SERVING, 0.0) for name in names)


def test_a_place_is_free_when_its_unit_is_gone_and_a_swap_is_over_when_it_serves_again() -> None:
    changes = [Change(name, CALLS, 10.0) for name in ("drains", "gone", "serves")]
    changes += [Change("other way", JOBS, 10.0), Change("long ago", CALLS, -95.0)]
    source = Standing(serving=_units(JOBS, "serves"), draining=_units(JOBS, "drains"))
    found = underway(changes, CALLS, source=source, target=Standing(), now=20.0, most_s=100.0)
    assert [each.unit for each in found.draining] == ["drains"]
    assert [each.unit for each in found.free] == ["gone"]
    assert {each.unit for each in found.over} == {"serves", "long ago"}
    assert found.count == 2


def test_of_two_starts_that_were_noted_only_the_one_that_was_made_is_over() -> None:
    changes = [Change(name, CALLS, 10.0, before=("old",)) for name in ("a", "b")]
    for new, over in (((), 0), (("x",), 1), (("x", "y"), 2), (("x", "y", "z"), 2)):
        target = Standing(serving=_units(CALLS, "old"), starting=_units(CALLS, *new))
        found = underway(changes, CALLS, source=Standing(), target=target, now=20.0, most_s=100.0)
        assert (len(found.over), len(found.free)) == (over, 2 - over)


async def test_what_is_kept_of_a_swap_is_read_as_it_was_written(redis: Redis) -> None:
    swaps = Swaps(redis)
    await swaps.begin(JOBS, ["a", "b", "plain"], Exchange(CALLS, CALLS, away=2), 5.0)
    kept = [Change("a", CALLS, 5.0), Change("b", CALLS, 5.0)]
    assert sorted(await swaps.read(CALLS), key=lambda each: each.unit) == kept
    assert await redis.smembers(autoscaling.drains_of(JOBS)) == {b"a", b"b", b"plain"}
    await swaps.asked(CALLS, kept[:1], {"old"})
    await swaps.end(CALLS, kept[1:])
    assert await swaps.read(CALLS) == [replace(kept[0], before=("old",))]


class Killed(BaseException):
    """The process is gone: nothing after this line is run."""


class Moment(StrEnum):
    """Where the first leader is killed."""

    DRAIN_IS_NOTED = "before the unit is drained"
    DRAINS = "while the unit drains"
    START_IS_NOTED = "before the start is made"
    STARTED = "after the start was made"


class World:
    """Units of both pools as any leader sees them; one that drains goes when it is let go."""

    def __init__(self) -> None:
        self.there: dict[str, Unit] = {}
        self.kill_at: Moment | None = None
        self.discarded: list[str] = []
        self.started = {CALLS: 0, JOBS: 0}

    async def units(self, pool: str) -> Sequence[Unit]:
        return [unit for unit in self.there.values() if unit.pool == pool]

    async def start(self, pool: str, count: int) -> None:
        self._killed(Moment.START_IS_NOTED, pool == CALLS)
        for _ in range(count):
            self.started[pool] += 1
            name = f"{pool}-{self.started[pool]}"
            now = SystemClock().now()
            self.there[name] = Unit(name, pool, UnitState.SERVING, now, now)
        self._killed(Moment.STARTED, pool == CALLS)

    async def drain(self, pool: str, names: Sequence[str]) -> None:
        self._killed(Moment.DRAIN_IS_NOTED, pool == JOBS)
        for name in names:
            self.there[name] = replace(self.there[name], state=UnitState.DRAINING)

    async def discard(self, pool: str, names: Sequence[str]) -> None:
        self.discarded += names

    def draining(self, pool: str) -> list[str]:
        """Name those that finish what they have."""
        return [
            u.name for u in self.there.values() if (u.pool, u.state) == (pool, UnitState.DRAINING)
        ]

    def let_go(self) -> None:
        """Let what drains have finished."""
        self.there = {n: u for n, u in self.there.items() if u.state is not UnitState.DRAINING}

    def count(self, pool: str) -> int:
        """Count a pool's units that serve."""
        return sum((u.pool, u.state) == (pool, UnitState.SERVING) for u in self.there.values())

    def _killed(self, moment: Moment, here: bool) -> None:
        if here and self.kill_at is moment:
            self.kill_at = None
            raise Killed


class Leaders:
    """Two instances before one world, and calls that are offered to it."""

    def __init__(self, redis: Redis, world: World) -> None:
        self._redis = redis
        self._work, self._at = 0.0, SystemClock().now()
        self.alive = [self._instance(world), self._instance(world)]

    async def ticks(self, count: int, units: float) -> None:
        """Let all that live look, and the leader act."""
        for _ in range(count):
            now = SystemClock().now()
            self._work += (now - self._at) * units * 0.9
            self._at = now
            counters = Counters(offered=round(self._work * 40), offered_work_s=self._work)
            told = Signal("g", now, 1.0, {(CALLS, "server", "t"): counters})
            await signals.write(self._redis, told)
            await backlogs.write(self._redis, [PoolBacklog(JOBS, now, ((now + 1000.0, 40_000.0),))])
            for each in self.alive:
                await each.tick()
            await asyncio.sleep(0.02)

    async def lose_first(self) -> None:
        """Kill the leader; its lease has ended."""
        assert self.alive[0].leads
        del self.alive[0]
        await self._redis.delete(KEY)

    def _instance(self, world: World) -> Autoscaler:
        quick = {"most": MOST[CALLS], "up_area_s": 0.05, "down_area_s": 50.0}
        jobs = {**quick, "most": MOST[JOBS], "least": 0, "idle_s": 0.0}
        config = parse(
            {
                "pools": [
                    {"model": CALLS, "cold_start_s": 20.0, "policy": quick},
                    {"model": JOBS, "cold_start_s": 20.0, "policy": jobs},
                ],
                "shared": [{"calls": CALLS, "jobs": JOBS, "swap_s": 2.0, "empties_s": 1.0}],
                "tick_s": 0.2,
            }
        )
        return Autoscaler(
            config,
            {each.name: each for each in MLPERF_CLASSES},
            store=self._redis,
            registry=Registry(self._redis),
            actuator=world,
            clock=SystemClock(),
        )


@pytest.mark.parametrize("moment", Moment)
async def test_the_next_leader_carries_a_swap_on(redis: Redis, moment: Moment) -> None:
    """All bounds are reached, so that what should be there is known: six units and four."""
    world, swaps = World(), Swaps(redis)
    leaders = Leaders(redis, world)
    await leaders.ticks(15, 0.5)
    first = world.count(CALLS)
    assert first < MOST[CALLS]
    assert first + world.count(JOBS) == sum(MOST.values())
    if moment is Moment.DRAIN_IS_NOTED:
        world.kill_at = moment
        with pytest.raises(Killed):
            await leaders.ticks(40, 40.0)
        assert await swaps.read(CALLS)
        await leaders.lose_first()
    await leaders.ticks(40, 40.0)
    kept = await swaps.read(CALLS)
    assert sorted(each.unit for each in kept) == sorted(world.draining(JOBS))
    assert len(kept) == MOST[CALLS] - first
    if moment is Moment.DRAINS:
        await leaders.lose_first()
        await leaders.ticks(5, 40.0)
        assert await swaps.read(CALLS) == kept
    world.let_go()
    if moment in {Moment.START_IS_NOTED, Moment.STARTED}:
        world.kill_at = moment
        with pytest.raises(Killed):
            await leaders.ticks(1, 40.0)
        assert world.count(CALLS) == (first if moment is Moment.START_IS_NOTED else MOST[CALLS])
        await leaders.lose_first()
    await leaders.ticks(10, 40.0)
    assert {pool: world.count(pool) for pool in MOST} == MOST
    assert world.started == {CALLS: MOST[CALLS], JOBS: sum(MOST.values()) - first}
    assert not world.discarded
    assert not await swaps.read(CALLS)
