"""A stream that is late to begin is asked of a second replica; the slower one is stopped."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import orjson
import pytest

from gateway.explain_words import told
from gateway.hedging import LEAST_CALLS, LEAST_S, Delays
from tests.engines import STREAM_HEAD, ScriptedEngine, Seen, as_chunk, scripted_engine
from tests.gateways import MODEL, RunningGateway, running_gateway, until

USAGE = b'data: {"id":"x","choices":[],"usage":{"prompt_tokens":3,"completion_tokens":1}}\n\n'
CHAT = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}], "stream": True}


def frame(text: str) -> bytes:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": None}
    return b"data: " + orjson.dumps({"id": "x", "choices": [choice]}) + b"\n\n"


@dataclass
class Scene:
    """Two engines; the next calls to those in `silent` never get a first byte."""

    engines: list[ScriptedEngine] = field(default_factory=list)
    calls: list[Seen] = field(default_factory=list)  # in order of arrival
    silent: int = 0

    async def answer(self, seen: Seen, writer: asyncio.StreamWriter) -> None:
        self.calls.append(seen)
        if self.silent:
            self.silent -= 1
            await asyncio.Event().wait()
        writer.write(STREAM_HEAD)
        writer.write(as_chunk(frame("all") + USAGE + b"data: [DONE]\n\n") + as_chunk(b""))

    @property
    def aborted(self) -> list[str]:
        return [rid for engine in self.engines for rid in engine.aborted]


@asynccontextmanager
async def playing(
    redis_url: str, *, hedge: bool = True, **more: Any
) -> AsyncIterator[tuple[Scene, RunningGateway, aiohttp.ClientSession]]:
    scene = Scene()
    free = {"default": {"ttft_ms": None, "tpot_ms": None}}  # these engines never report a load
    classes = {
        "interactive": {"rank": 0, "hedge": hedge, "targets": free},
        "offline": {"rank": 2, "targets": free},
    }
    async with (
        scripted_engine(scene.answer) as one,
        scripted_engine(scene.answer) as two,
        running_gateway(
            redis_url,
            {MODEL: [one.url, two.url]},
            classes=classes,
            default_class="interactive",
            **more,
        ) as gateway,
        aiohttp.ClientSession() as client,
    ):
        scene.engines = [one, two]
        for _ in range(LEAST_CALLS):  # what is late is learnt from calls that are not
            assert (await ask(client, gateway))[0] == 200
        yield scene, gateway, client


async def ask(
    client: aiohttp.ClientSession, gateway: RunningGateway, tier: str = "priority"
) -> tuple[int, bytes, str]:
    asked = {**CHAT, "service_tier": tier}
    async with client.post(f"{gateway.url}/v1/chat/completions", json=asked) as answer:
        return answer.status, await answer.read(), answer.headers["x-request-id"]


async def test_a_late_stream_is_answered_by_another_replica_and_the_first_is_stopped(
    redis_url: str,
) -> None:
    async with playing(redis_url) as (scene, gateway, client):
        before = len(scene.calls)
        scene.silent = 1
        async with asyncio.timeout(10):
            status, body, request_id = await ask(client, gateway)
        assert status == 200
        assert b"all" in body
        first, second = scene.calls[before:]
        await until(lambda: len(scene.aborted) == 1)
        await until(lambda: not any(gateway.leftovers().values()))
        found = await gateway.services.explanations.find(request_id)
        assert found is not None
        assert scene.aborted == [first.document["rid"]]
        assert second.document["rid"] != first.document["rid"]
    words = told(found)
    assert "hedged: no first byte after" in words
    assert "the second attempt was faster" in words
    assert "in 2 attempts" in words
    assert [step["kind"] for step in found["steps"]].count("slot") == 2
    assert found["outcome"] == "ok"
    assert found["completion_tokens"] == 1


async def test_a_class_that_does_not_hedge_asks_one_replica(redis_url: str) -> None:
    async with playing(redis_url, hedge=False) as (scene, gateway, client):
        before = len(scene.calls)
        scene.silent = 1
        waiting = asyncio.create_task(ask(client, gateway))
        await until(lambda: len(scene.calls) > before)
        await asyncio.wait({waiting}, timeout=20 * LEAST_S)
        assert len(scene.calls) == before + 1
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        await until(lambda: not any(gateway.leftovers().values()))


async def test_hedges_are_paid_out_of_the_budget_of_retries(redis_url: str) -> None:
    async with playing(redis_url, retries={"share": 0.0}) as (scene, gateway, client):
        budget = 10  # that a gateway begins with
        before = len(scene.calls)
        scene.silent = 1000
        calls = [asyncio.create_task(ask(client, gateway)) for _ in range(budget + 5)]
        await until(lambda: len(scene.calls) == before + 2 * budget + 5)
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        await until(lambda: not any(gateway.leftovers().values()))
        assert len(scene.aborted) == len(scene.calls) - before


@pytest.mark.parametrize(("others", "is_hedged"), [(6, True), (7, False)])
async def test_nothing_is_hedged_while_more_than_seven_tenths_of_the_slots_are_taken(
    redis_url: str, others: int, is_hedged: bool
) -> None:
    async with playing(redis_url, max_running=5) as (scene, gateway, client):
        before = len(scene.calls)
        scene.silent = 1000
        calls = [asyncio.create_task(ask(client, gateway, "flex")) for _ in range(others)]
        await until(lambda: len(scene.calls) == before + others)
        calls.append(asyncio.create_task(ask(client, gateway)))
        await until(lambda: len(scene.calls) == before + others + 1)
        if is_hedged:
            await until(lambda: len(scene.calls) == before + others + 2)
        else:
            await asyncio.wait(calls, timeout=20 * LEAST_S)
            assert len(scene.calls) == before + others + 1
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        await until(lambda: not any(gateway.leftovers().values()))


async def test_a_caller_who_hangs_up_stops_both_attempts(redis_url: str) -> None:
    async with playing(redis_url) as (scene, gateway, client):
        before = len(scene.calls)
        scene.silent = 2
        waiting = asyncio.create_task(ask(client, gateway))
        await until(lambda: len(scene.calls) == before + 2)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        await until(lambda: len(scene.aborted) == 2)
        await until(lambda: not any(gateway.leftovers().values()))


def test_what_is_late_is_learnt_and_follows_what_is_seen() -> None:
    delays = Delays()
    for _ in range(LEAST_CALLS - 1):
        delays.observe(1.0)
    assert delays.late_s() is None
    delays.observe(1.0)
    assert delays.late_s() == 1.0
    for _ in range(300):
        delays.observe(0.001)
    assert delays.late_s() == LEAST_S
