"""After a thousand callers who left at random moments nothing of them is left anywhere."""

import asyncio
import logging
import random
import time

import aiohttp
import orjson
import pytest

from backends.simulated.replica import SimulatedReplica
from backends.simulated.server import serve_replicas
from backends.simulated.settings import SimulatedSettings
from tests.gateways import RunningGateway, running_gateway, until

pytestmark = [pytest.mark.system, pytest.mark.xdist_group("faults")]

MODEL = "llama2-70b"
CALLS = 1000
AT_ONCE = 60
LONGEST_S = 0.6
IDLE_S = 1.0


def request(draw: random.Random) -> bytes:
    """Give a call: streamed or not, long or short."""
    body = orjson.dumps(
        {
            "model": MODEL,
            "messages": [{"role": "user", "content": "word " * draw.choice((1, 50, 400))}],
            "max_tokens": draw.choice((1, 10, 1000)),
            "ignore_eos": True,
            "stream": draw.random() < 0.6,
        }
    )
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


async def call_and_leave(port: int, draw: random.Random) -> bytes:
    """Make a call and leave at a random moment, with or without a word; give what had come."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    data = request(draw)
    if draw.random() < 0.1:  # leaves while it still asks
        data = data[: draw.randrange(len(data))]
    writer.write(data)
    found = b""
    try:
        async with asyncio.timeout(draw.uniform(0.0, LONGEST_S)):
            while piece := await reader.read(65536):
                found += piece
    except (TimeoutError, ConnectionError):
        pass
    if draw.random() < 0.5:
        writer.transport.abort()
    else:
        writer.close()
    try:
        await writer.wait_closed()
    except ConnectionError:
        pass
    return found


async def test_a_thousand_aborted_calls_leave_nothing(
    redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    draw = random.Random(20261125)
    settings = SimulatedSettings(model=MODEL, replicas=2, max_running=8, max_queued=40)
    async with (
        serve_replicas(settings) as replicas,
        running_gateway(
            redis_url,
            {MODEL: [r.url for r in replicas]},
            max_running=16,  # more than the engines run: calls wait there, too
            upstream={"idle_s": IDLE_S},
        ) as gateway,
    ):
        await until(lambda: not any(gateway.leftovers().values()))
        tasks_before = len(asyncio.all_tasks())
        began = time.monotonic()
        turn = asyncio.Semaphore(AT_ONCE)

        async def one() -> bytes:
            async with turn:
                return await call_and_leave(gateway.port, draw)

        answers = await asyncio.gather(*(one() for _ in range(CALLS)))
        took_s = time.monotonic() - began
        await _nothing_is_left(gateway, replicas)
        await until(lambda: len(asyncio.all_tasks()) <= tasks_before)
        left_after_s = time.monotonic() - began - took_s

    streamed = sum(b"data: " in a for a in answers)
    silent = sum(not a for a in answers)
    print(
        f"{CALLS} calls aborted in {took_s:.1f} s, {streamed} in the middle of a stream or later, "
        f"{silent} before a byte; nothing was left {left_after_s:.1f} s after the last"
    )
    assert streamed > 10
    assert silent > 10
    assert [r for r in caplog.records if r.levelno >= logging.ERROR] == []


async def _nothing_is_left(gateway: RunningGateway, replicas: tuple[SimulatedReplica, ...]) -> None:
    services = gateway.services
    await until(lambda: not any(gateway.leftovers().values()))
    await until(lambda: not gateway.server.server_state.connections)
    await until(lambda: not any(replica.live_calls for replica in replicas))
    await until(lambda: services.upstreams.open_count == 0)  # those that idle have expired
    async with aiohttp.ClientSession() as session:
        for replica in replicas:
            async with session.get(f"{replica.url}/v1/loads?include=core") as reply:
                (rank,) = (await reply.json())["loads"]
            assert (rank["num_running_reqs"], rank["num_waiting_reqs"]) == (0, 0)
            assert rank["num_used_tokens"] == 0
