"""A caller who hangs up ends the engine's work, as its own load report tells, in all five windows:
waiting for a slot, routed, before the first token, mid-stream, unary."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import orjson
import pytest

from tests.contract.site import MAX_RUNNING, Site, until_idle
from tests.gateways import running_gateway, until
from tests.waiting import eventually

CHAT = "/v1/chat/completions"
LONG = {"max_tokens": 1500, "ignore_eos": True}


@dataclass(frozen=True)
class Caller:
    """One open connection with a chat on it."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter


@asynccontextmanager
async def calling(port: int, body: dict[str, object]) -> AsyncIterator[Caller]:
    """Send a chat and read nothing; leave at the end."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    data = orjson.dumps(body)
    head = f"POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(data)}\r\n\r\n"
    writer.write(head.encode() + data)
    try:
        yield Caller(reader, writer)
    finally:
        writer.transport.abort()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


@asynccontextmanager
async def busy(site: Site) -> AsyncIterator[None]:
    """Fill all that the engine runs at once, so that what comes next is queued there."""
    async with AsyncExitStack() as stack:
        for number in range(MAX_RUNNING):
            body = site.chat(stream=True, **LONG)
            await stack.enter_async_context(calling(site.gateway.port, body))
            await eventually(lambda n=number: _runs(site, n + 1))  # type: ignore[misc]
        yield


async def _runs(site: Site, count: int) -> bool:
    return sum(await site.engine_load()) >= count


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "unary"])
async def test_while_it_is_queued_in_the_engine(site: Site, stream: bool) -> None:
    async with busy(site):
        before = site.gateway.leftovers()["in_flight"]
        async with calling(site.gateway.port, site.chat(stream=stream, **LONG)):
            await until(lambda: site.gateway.leftovers()["slots"] > MAX_RUNNING)
        await until(lambda: site.gateway.leftovers()["in_flight"] == before)
    await until_idle(site)


async def test_in_the_middle_of_a_stream(site: Site) -> None:
    async with calling(site.gateway.port, site.chat(stream=True, **LONG)) as caller:
        await caller.reader.readuntil(b"\n\n\r\n")
        await eventually(lambda: _runs(site, 1))
    await until_idle(site)


async def test_in_the_middle_of_a_unary_call(site: Site) -> None:
    async with calling(site.gateway.port, site.chat(**LONG)):
        await eventually(lambda: _runs(site, 1))
    await until_idle(site)


async def test_before_the_first_token(site: Site) -> None:
    async with calling(site.gateway.port, site.chat("word " * 60, stream=True, **LONG)):
        await until(lambda: site.gateway.leftovers()["slots"] == 1)
    await until_idle(site)


async def test_while_it_waits_for_a_slot(site: Site, redis_url: str) -> None:
    models = {site.model: [site.engine_url]}
    body = site.chat(stream=True, **LONG)
    async with running_gateway(redis_url, models, max_running=1) as gateway:
        async with calling(gateway.port, body) as first:
            await first.reader.readuntil(b"\n\n\r\n")
            async with calling(gateway.port, body):
                await until(lambda: gateway.leftovers()["waiting"] == 1)
            await until(lambda: gateway.leftovers()["waiting"] == 0)
        await until(lambda: not any(gateway.leftovers().values()))
    await until_idle(site)
