"""The loop with a real store and real processes."""

import asyncio
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from redis.asyncio import Redis

from autoscale.actuate.dry import DryActuator
from autoscale.actuate.process import Launch, processes
from autoscale.actuate.unit import ActuationFailed, Unit, UnitState
from autoscale.config import parse
from autoscale.drain import DrainPace, drained
from autoscale.endpoint import serving
from autoscale.explain import told
from autoscale.journal import Journal
from autoscale.leader import Leadership
from autoscale.lives import LOST_AFTER_S, Lives
from autoscale.loop import Autoscaler
from backends import autoscaling, records, signals
from backends.clock import SystemClock
from backends.fleet import EngineKind, HealthState, Replica
from backends.launch import LaunchSpec
from backends.lease import leased
from backends.registry import Registry
from backends.signals import Counters, Signal
from backends.slo import MLPERF_CLASSES

CLASSES = {each.name: each for each in MLPERF_CLASSES}
MODEL = "llama2-70b"


def _config(**changes: Any) -> Any:
    policy = {"preset": "balanced", "most": 8, "up_area_s": 0.05, "down_area_s": 1.0}
    pool = {"model": MODEL, "cold_start_s": 20.0, "policy": policy}
    return parse({"pools": [pool | changes.pop("pool", {})], "tick_s": 0.2, **changes})


async def _signal(redis: Redis, at: float, work_s: float) -> None:
    counters = Counters(offered=round(work_s * 40), offered_work_s=work_s)
    signal = Signal("g", at, 1.0, {(MODEL, "server", "t"): counters})
    await signals.write(redis, signal)


def _autoscaler(redis: Redis, config: Any, actuator: Any) -> Autoscaler:
    registry = Registry(redis)
    return Autoscaler(
        config, CLASSES, store=redis, registry=registry, actuator=actuator, clock=SystemClock()
    )


async def _ticks(redis: Redis, scaler: Autoscaler, count: int, units: float) -> None:
    """Offer so many units of work, tick after tick."""
    clock = SystemClock()
    began, work = clock.now(), 0.0
    for _ in range(count):
        await _signal(redis, clock.now(), work)
        await scaler.tick()
        await asyncio.sleep(0.02)
        work = (clock.now() - began) * units * 0.9


async def test_one_leads_and_a_standby_takes_over(redis: Redis) -> None:
    first, second = Leadership(redis, "a", lease_s=0.3), Leadership(redis, "b", lease_s=0.3)
    held = await first.hold()
    assert held is not None
    assert await first.hold() == held
    assert await second.hold() is None
    async with asyncio.timeout(5):
        while (taken := await second.hold()) is None:
            await asyncio.sleep(0.05)
    assert taken.fence > held.fence
    assert await first.hold() is None
    await second.leave()
    assert await first.hold() is not None


async def test_load_starts_units_and_explain_tells_why(redis: Redis) -> None:
    actuator = DryActuator(SystemClock())
    scaler = _autoscaler(redis, _config(), actuator)
    await _ticks(redis, scaler, 40, units=3.0)
    assert len(await actuator.units(MODEL)) >= 3
    found = await Journal(redis).last(pool=MODEL)
    assert found
    text = told(found[0])
    assert "start" in text
    assert "quantile" in text
    assert "instead" in text
    early = await Journal(redis).last(at=float(found[-1]["at"]))
    assert early[0] == found[-1]
    assert MODEL in await autoscaling.states(redis)


async def test_nothing_is_done_while_paused(redis: Redis) -> None:
    actuator = DryActuator(SystemClock())
    scaler = _autoscaler(redis, _config(), actuator)
    await autoscaling.pause(redis, now=1.0, by="test")
    await _ticks(redis, scaler, 10, units=3.0)
    assert not await actuator.units(MODEL)
    assert (await Journal(redis).last())[0]["done"] == "paused"
    assert await autoscaling.resume(redis)
    await _ticks(redis, scaler, 20, units=3.0)
    assert await actuator.units(MODEL)


async def test_an_action_waits_for_approval(redis: Redis) -> None:
    actuator = DryActuator(SystemClock())
    scaler = _autoscaler(redis, _config(approval=True), actuator)
    await scaler.tick()
    assert not await actuator.units(MODEL)
    proposal = (await autoscaling.proposals(redis))[MODEL]
    assert proposal["start"] == 1
    assert await autoscaling.approve(redis, MODEL) == proposal
    await scaler.tick()
    assert len(await actuator.units(MODEL)) == 1
    assert not await autoscaling.proposals(redis)
    assert await autoscaling.approve(redis, "other") is None


async def test_a_standby_does_nothing(redis: Redis) -> None:
    await Leadership(redis, "somebody else", lease_s=60.0).hold()
    actuator = DryActuator(SystemClock())
    scaler = _autoscaler(redis, _config(), actuator)
    await scaler.tick()
    assert not scaler.leads
    assert not await actuator.units(MODEL)


class Ailing(DryActuator):
    """Units whose state is another than they should have."""

    def __init__(self, state: UnitState, *, served: bool) -> None:
        super().__init__(SystemClock())
        self._state, self._served = state, served
        self.asked = 0
        self.ended: list[str] = []

    async def units(self, pool: str) -> Sequence[Unit]:
        return [
            replace(u, state=self._state, served_at=u.served_at if self._served else None)
            for u in await super().units(pool)
        ]

    async def start(self, pool: str, count: int) -> None:
        self.asked += count
        await super().start(pool, count)

    async def discard(self, pool: str, names: Sequence[str]) -> None:
        self.ended += names
        await super().discard(pool, names)


async def test_a_start_that_takes_too_long_is_ended_and_tried_again(redis: Redis) -> None:
    """Row 15, live: also where the budget has room for one only."""
    actuator = Ailing(UnitState.STARTING, served=False)
    pool = {"cold_start_s": 0.05}
    scaler = _autoscaler(redis, _config(pool=pool, budget={"mi355x": 1}), actuator)
    await _ticks(redis, scaler, 30, units=0.0)
    assert len(actuator.ended) >= 2
    assert actuator.asked >= len(actuator.ended)


async def test_a_unit_that_failed_is_ended_and_the_next_start_waits_longer_each_time(
    redis: Redis,
) -> None:
    actuator = Ailing(UnitState.FAILED, served=False)
    scaler = _autoscaler(redis, _config(budget={"mi355x": 1}, tick_s=0.05), actuator)
    await _ticks(redis, scaler, 40, units=0.0)
    assert "end 1 that failed" in told((await Journal(redis).last())[0])
    assert 2 <= len(actuator.ended) <= 5  # after 0.1, 0.2, 0.4 s, and not with every tick
    assert not await actuator.units(MODEL) or actuator.asked == len(actuator.ended) + 1


def test_a_unit_that_served_and_answers_no_more_is_replaced_and_not_ended_at_once() -> None:
    stuck = (Unit("a", MODEL, UnitState.SERVING, 0.0, 1.0, ("gone",)),)
    lives = Lives()
    assert lives.lost(stuck, 100.0) == ()
    assert lives.lost(stuck, 100.0 + LOST_AFTER_S, blind=True) == ()
    assert lives.lost(stuck, 100.0 + LOST_AFTER_S) == ("a",)
    assert lives.lost((), 200.0) == ()  # it came back
    assert lives.lost(stuck, 300.0) == ()


def test_a_start_is_measured_where_it_was_watched_and_a_unit_that_served_is_remembered() -> None:
    unit = Unit("a", MODEL, UnitState.STARTING, 10.0, None, ("r",))
    lives = Lives()
    assert lives.watch([unit], (), 20.0) == ((replace(unit, asked_at=20.0),), ())
    assert lives.watch([unit], ("r",), 30.0) == ((replace(unit, served_at=30.0),), (20.0,))
    known, took = lives.watch([unit], (), 40.0)  # it answers no more
    assert known[0].served_at == 30.0
    assert took == ()
    assert Lives().watch([unit], ("r",), 5_000.0)[1] == ()  # nobody knows when it came up


class Elsewhere(Ailing):
    """Containers that have been there for long; nobody knows when they came up."""

    def __init__(self) -> None:
        super().__init__(UnitState.SERVING, served=False)
        self.drained: list[str] = []

    async def units(self, pool: str) -> Sequence[Unit]:
        return [replace(u, asked_at=1.0, replicas=("r",)) for u in await super().units(pool)]

    async def drain(self, pool: str, names: Sequence[str]) -> None:
        self.drained += names


async def test_an_instance_that_has_just_begun_ends_no_unit_that_it_has_not_probed_yet(
    redis: Redis,
) -> None:
    actuator = Elsewhere()
    await actuator.start(MODEL, 1)
    await _ticks(redis, _autoscaler(redis, _config(), actuator), 10, units=0.5)
    assert actuator.ended == []


def _state(scaler: Autoscaler, id_: str) -> HealthState | None:
    found = scaler._registry.fleet.standing(id_)
    return None if found is None else found.health.state


async def test_the_next_leader_goes_on_with_a_drain_and_leaves_an_operators_alone(
    redis: Redis,
) -> None:
    actuator = Elsewhere()
    await actuator.start(MODEL, 1)
    (unit,) = await actuator.units(MODEL)
    scaler = _autoscaler(redis, _config(), actuator)
    mark = records.encode_mark(records.Mark(records.MarkKind.DRAINING, 1.0))
    following = asyncio.create_task(scaler._registry.run())
    try:
        async with leased(redis, [Replica("r", MODEL, "http://127.0.0.1:9")]):
            await redis.hset(records.MARKS, "r", mark)
            async with asyncio.timeout(10):
                while _state(scaler, "r") is not HealthState.DRAINING:
                    await asyncio.sleep(0.02)
            await _ticks(redis, scaler, 3, units=0.0)
            assert actuator.drained == []
            await redis.sadd(autoscaling.drains_of(MODEL), unit.name, "long gone")
            await _ticks(redis, scaler, 1, units=0.0)
        assert actuator.drained == [unit.name]
        left = await redis.smembers(autoscaling.drains_of(MODEL))
        assert left == {unit.name.encode()}
    finally:
        following.cancel()
        await asyncio.wait([following])


class Silent(DryActuator):
    """An engine that does not answer."""

    async def units(self, pool: str) -> Sequence[Unit]:
        raise ActuationFailed("no answer")


async def test_an_engine_that_does_not_answer_stops_no_loop(redis: Redis) -> None:
    scaler = _autoscaler(redis, _config(), Silent(SystemClock()))
    await scaler.tick()
    assert scaler.leads


async def test_the_number_can_be_read_by_a_clusters_own_autoscaler(redis: Redis) -> None:
    scaler = _autoscaler(redis, _config(), DryActuator(SystemClock()))
    await scaler.tick()
    bound: list[str] = []
    async with (
        serving(scaler, "127.0.0.1", 0, bound.append),
        aiohttp.ClientSession(bound[0]) as session,
    ):
        async with session.get(f"/v1/pools/{MODEL}") as answer:
            assert (await answer.json())["target"] == 1
        async with session.get("/metrics") as answer:
            assert f'sluice_autoscale_target_units{{pool="{MODEL}"}} 1.0' in await answer.text()
        async with session.get("/v1/pools/other") as answer:
            assert answer.status == 404


async def test_a_drain_outlasts_a_generation(redis: Redis) -> None:
    """Row 16: a drain was shorter than a generation, and streams were cut."""
    ended: list[float] = []
    clock = SystemClock()

    async def end() -> None:
        ended.append(clock.monotonic())

    async def gateway(running: int) -> None:
        await signals.write(redis, Signal("g", clock.now(), 1.0, replicas={"r": running}))

    await gateway(1)
    pace = DrainPace(settle_s=0.05, quiet_s=0.1, look_every_s=0.02, within_s=30.0)
    draining = asyncio.create_task(drained(redis, ["r"], end, clock=clock, pace=pace))
    async with asyncio.timeout(10):
        while not await redis.hexists(records.MARKS, "r"):  # routing is told first
            await asyncio.sleep(0.01)
    await asyncio.sleep(0.5)
    assert not ended
    await gateway(0)
    await asyncio.sleep(0.5)
    assert not ended  # the gateway stalls: it may not have read the mark
    async with asyncio.timeout(10):
        while not draining.done():
            await gateway(0)
            await asyncio.sleep(0.05)
    assert await draining
    assert len(ended) == 1
    assert not await redis.hexists(records.MARKS, "r")


async def test_what_has_ended_but_is_still_leased_stays_marked(redis: Redis) -> None:
    """A gateway that reads the registry between the two would send calls to what is gone."""

    async def end() -> None:
        return None

    await signals.write(redis, Signal("g", 1.0, 1.0, replicas={}))
    pace = DrainPace(settle_s=0.01, quiet_s=0.05, look_every_s=0.02, within_s=0.2)
    async with leased(redis, [Replica("r", MODEL, "http://127.0.0.1:1")]):
        await drained(redis, ["r"], end, clock=SystemClock(), pace=pace)
        assert await redis.hexists(records.MARKS, "r")
    assert not await redis.hexists(records.MARKS, "r")


async def test_a_drain_has_a_hard_deadline(redis: Redis) -> None:
    async def end() -> None:
        return None

    await signals.write(redis, Signal("g", 1.0, 1.0, replicas={"r": 1}))
    pace = DrainPace(settle_s=0.01, quiet_s=0.05, look_every_s=0.02, within_s=0.3)
    assert not await drained(redis, ["r"], end, clock=SystemClock(), pace=pace)


def _recipe(tmp_path: Path, free_port: int) -> Any:
    def make(number: int) -> Launch:
        port = free_port
        url = f"http://127.0.0.1:{port}"
        argv = (
            *(sys.executable, "-m", "backends.simulated", "--model", MODEL),
            *("--replicas", "1", "--host", "127.0.0.1", "--port", str(port)),
        )
        spec = LaunchSpec(f"unit {number}", argv, url, tmp_path / f"{number}.log")
        replica = Replica(f"r{number}", MODEL, url, EngineKind.SIMULATED)
        return Launch(spec, (replica,))

    return make


async def test_a_start_that_is_cancelled_is_gone_once_its_process_is(
    redis_url: str, tmp_path: Path, free_port: int
) -> None:
    def never_ready(number: int) -> Launch:
        argv = (sys.executable, "-c", "import time; time.sleep(600)")
        url = f"http://127.0.0.1:{free_port}"
        return Launch(LaunchSpec(f"unit {number}", argv, url, tmp_path / "log"))

    async with processes({MODEL: never_ready}, redis_url) as actuator:
        await actuator.start(MODEL, 1)
        await asyncio.sleep(0.3)
        (unit,) = await actuator.units(MODEL)
        assert unit.state is UnitState.STARTING
        await actuator.discard(MODEL, [unit.name])
        async with asyncio.timeout(20):
            while found := await actuator.units(MODEL):
                assert found[0].state is UnitState.DRAINING
                await asyncio.sleep(0.05)


@pytest.mark.system
async def test_a_process_comes_into_service_and_leaves_with_no_stream_cut(
    redis: Redis, redis_url: str, tmp_path: Path, free_port: int
) -> None:
    async with processes({MODEL: _recipe(tmp_path, free_port)}, redis_url) as actuator:
        await actuator.start(MODEL, 1)
        async with asyncio.timeout(60):
            while (await actuator.units(MODEL))[0].state is not UnitState.SERVING:
                await asyncio.sleep(0.1)
        listing = await records.read(redis)
        assert "r1" in listing.leased
        stream = asyncio.create_task(_stream(f"http://127.0.0.1:{free_port}"))
        async with asyncio.timeout(20):
            while not await _running(free_port):
                await asyncio.sleep(0.02)
        await actuator.drain(MODEL, [(await actuator.units(MODEL))[0].name])
        assert await stream == 300
        async with asyncio.timeout(60):
            while await actuator.units(MODEL):
                await asyncio.sleep(0.1)
        assert "r1" not in (await records.read(redis)).leased


async def _running(port: int) -> int:
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"http://127.0.0.1:{port}/v1/loads") as answer,
    ):
        loads = (await answer.json())["loads"]
        return sum(each["num_running_reqs"] for each in loads)


async def _stream(url: str) -> int:
    body = {
        "model": MODEL,
        "messages": [{"role": "user", "content": "hello"}],
        "max_tokens": 300,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    tokens = 0
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{url}/v1/chat/completions", json=body) as answer,
    ):
        assert answer.status == 200
        async for line in answer.content:
            if line.startswith(b"data: {"):
                usage = json.loads(line[6:]).get("usage")
                tokens = usage["completion_tokens"] if usage else tokens
    return tokens
