"""A real gateway tells what it is offered; a real (simulated) replica is measured."""

import asyncio

import aiohttp
import pytest
from redis.asyncio import Redis

from autoscale.calibrate import CalibrationFailed, calibrate
from backends import signals
from backends.hardware import profile
from backends.signals import Signal
from backends.simulated.server import serve
from backends.simulated.settings import SimulatedSettings
from tests.gateways import running_gateway

MODEL = "llama2-70b"
BODY = {"model": MODEL, "messages": [{"role": "user", "content": "hello"}], "max_tokens": 8}


async def _seen(redis: Redis, offered: int) -> Signal:
    async with asyncio.timeout(20):
        while True:
            for signal in await signals.read(redis):
                if sum(c.offered for c in signal.counters.values()) >= offered:
                    return signal
            await asyncio.sleep(0.05)


async def test_a_gateway_tells_what_it_was_offered(redis: Redis, redis_url: str) -> None:
    async with (
        serve(SimulatedSettings(model=MODEL)) as urls,
        running_gateway(redis_url, {MODEL: urls}) as gateway,
        aiohttp.ClientSession(gateway.url) as session,
    ):
        for _ in range(3):
            async with session.post("/v1/chat/completions", json=BODY) as answer:
                assert answer.status == 200
                await answer.read()
        signal = await _seen(redis, 3)
        (key, counters), *rest = signal.counters.items()
        assert not rest
        assert key[0] == MODEL
        assert counters.kept + counters.broken == 3
        assert counters.offered_work_s > 0.0
        assert counters.done_work_s > 0.0
        assert not any(signal.replicas.values())


async def test_a_refused_call_is_told_too(redis: Redis, redis_url: str) -> None:
    """Row 21: what counts accepted calls alone never wakes a pool of zero."""
    async with (
        running_gateway(redis_url, {MODEL: ["http://127.0.0.1:9"]}, ready=False) as gateway,
        aiohttp.ClientSession(gateway.url) as session,
    ):
        async with session.post("/v1/chat/completions", json=BODY) as answer:
            assert answer.status in {429, 503}
        signal = await _seen(redis, 1)
        assert sum(c.refused for c in signal.counters.values()) == 1
        assert sum(c.offered_work_s for c in signal.counters.values()) > 0.0


async def test_a_replica_is_measured(redis: Redis) -> None:
    settings = SimulatedSettings(model=MODEL, stream_interval=1)
    async with serve(settings) as urls:
        found = await calibrate(urls[0], MODEL, most_running=4, output_tokens=24)
    law = profile(MODEL, "mi355x").law
    assert found.law.c0_s == pytest.approx(law.c0_s, rel=0.35)


async def test_a_replica_that_is_not_there_is_said(free_port: int) -> None:
    with pytest.raises(CalibrationFailed, match=f":{free_port}"):
        await calibrate(f"http://127.0.0.1:{free_port}", MODEL)
