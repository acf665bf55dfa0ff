"""Replicas leave under load, one after the other, and not one stream is cut.

SLUICE_TEST_SCALE_INS=10000 in the environment for as many; a few without it.
"""

import asyncio
import os
import random
from collections import Counter
from contextlib import AsyncExitStack

import aiohttp
import orjson
import pytest
from redis.asyncio import Redis

from autoscale.drain import DrainPace, drained
from backends.clock import SystemClock
from backends.fleet import Replica
from backends.lease import leased
from tests.engines import STREAM_HEAD, Seen, as_chunk, scripted_engine
from tests.gateways import MODEL, RunningGateway, running_gateway, until

COUNT = int(os.environ.get("SLUICE_TEST_SCALE_INS", "12"))
ALIVE = min(COUNT // 2, 40)  # at a time
CHUNKS, EVERY_S = 20, 0.1  # of a stream
CALLS_PER_S = 0.5 * ALIVE
AT_ONCE = 2  # calls on a replica, so that all have some

_DELTA = {"index": 0, "delta": {"content": "w "}, "finish_reason": None}
_FRAME = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": MODEL}
_EVENT = b"data: " + orjson.dumps(_FRAME | {"choices": [_DELTA]}) + b"\n\n"


class Streams:
    """How an engine answers: for two seconds, a chunk at a time."""

    def __init__(self) -> None:
        self.running = 0

    async def __call__(self, _: Seen, writer: asyncio.StreamWriter) -> None:
        self.running += 1
        try:
            writer.write(STREAM_HEAD)
            for _chunk in range(CHUNKS):
                writer.write(as_chunk(_EVENT))
                await writer.drain()
                await asyncio.sleep(EVERY_S)
            writer.write(as_chunk(b"data: [DONE]\n\n") + as_chunk(b""))
        finally:
            self.running -= 1


class Fleet:
    """Replicas that come, serve for a few seconds, and are drained."""

    def __init__(self, redis: Redis, gateway: RunningGateway) -> None:
        self._redis, self._registry = redis, gateway.services.registry
        self._dice = random.Random(3)
        self._pace = DrainPace(within_s=120.0)
        self.begun = 0
        self.emptied = 0
        self.busy = 0  # replicas with calls in flight when their drain began

    async def place(self) -> None:
        """Be one place after the other, until there were enough."""
        while self.begun < COUNT:
            self.begun += 1
            await self._life(f"r{self.begun}")

    async def _life(self, id_: str) -> None:
        async with AsyncExitStack() as stack:
            streams = Streams()
            engine = await stack.enter_async_context(scripted_engine(streams))
            async with leased(self._redis, [Replica(id_, MODEL, engine.url, max_running=AT_ONCE)]):
                await until(lambda: self._is_routable(id_), 60.0)
                await asyncio.sleep(self._dice.uniform(0.5, 3.0))
                self.busy += streams.running > 0
                # What it still answers is cut, and its lease is still there: the harshest end.
                done = await drained(
                    self._redis, [id_], stack.aclose, clock=SystemClock(), pace=self._pace
                )
        self.emptied += done

    def _is_routable(self, id_: str) -> bool:
        return any(s.replica.id == id_ for s in self._registry.fleet.pool(MODEL).routable)


async def _call(session: aiohttp.ClientSession, url: str, seen: Counter[str]) -> None:
    body = {"model": MODEL, "messages": [{"role": "user", "content": "x"}], "stream": True}
    try:
        async with session.post(f"{url}/v1/chat/completions", json=body) as answer:
            if answer.status != 200:
                seen[f"refused ({answer.status})"] += 1
                return
            text = await answer.text()
    except aiohttp.ClientError:
        seen["cut"] += 1
        return
    whole = text.count('"w "') == CHUNKS and text.rstrip().endswith("[DONE]")
    seen["whole" if whole else "cut"] += 1


async def _load(url: str, seen: Counter[str]) -> None:
    """Call at a steady rate until cancelled; then wait for what was begun."""
    dice = random.Random(5)
    async with (
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session,
        asyncio.TaskGroup() as group,
    ):
        try:
            while True:
                group.create_task(_call(session, url, seen))
                await asyncio.sleep(dice.expovariate(CALLS_PER_S))
        except asyncio.CancelledError:
            return


@pytest.mark.timeout(3600)
async def test_replicas_leave_under_load_and_no_stream_is_cut(redis: Redis, redis_url: str) -> None:
    seen: Counter[str] = Counter()
    async with AsyncExitStack() as stack:
        stays = await stack.enter_async_context(scripted_engine(Streams()))
        gateway = await stack.enter_async_context(
            running_gateway(redis_url, {MODEL: [stays.url]}, max_running=AT_ONCE)
        )
        fleet = Fleet(redis, gateway)
        loading = asyncio.create_task(_load(gateway.url, seen))
        async with asyncio.TaskGroup() as group:
            for _ in range(ALIVE):
                group.create_task(fleet.place())
                await asyncio.sleep(0.05)
        loading.cancel()
        await loading
    print(f"\n{fleet.emptied} scale-ins ({fleet.busy} of busy replicas), streams: {dict(seen)}")
    assert fleet.emptied == COUNT
    assert fleet.busy > 0
    assert seen["cut"] == 0
    assert seen["whole"] > COUNT
