"""How calls of the simulated replica end early: refusals, aborts, callers who leave, drains,
faults.
"""

import asyncio
import gc
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import orjson
import pytest

from backends.simulated.replica import SimulatedReplica
from backends.simulated.server import drain, serve_replicas
from backends.simulated.settings import Faults, SimulatedSettings
from tests.backends.simulated.captures import frames_of
from tests.waiting import eventually

CHAT = "/v1/chat/completions"


@pytest.fixture
async def replica() -> AsyncIterator[SimulatedReplica]:
    settings = SimulatedSettings(max_running=2, disconnect_poll_s=0.2)
    async with serve_replicas(settings) as replicas:
        yield replicas[0]


@pytest.fixture
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


def _endless(**more: object) -> dict[str, object]:
    messages = [{"role": "user", "content": "Hello"}]
    return {"messages": messages, "max_tokens": 4000, "ignore_eos": True, **more}


async def _is_idle(client: aiohttp.ClientSession, replica: SimulatedReplica) -> bool:
    async with client.get(replica.url + "/v1/loads?include=core") as response:
        load: dict[str, Any] = (await response.json())["loads"][0]
    names = ("num_running_reqs", "num_waiting_reqs", "num_used_tokens", "num_total_tokens")
    return all(load[name] == 0 for name in names) and replica.live_calls == 0


async def _becomes_idle(client: aiohttp.ClientSession, replica: SimulatedReplica) -> None:
    await eventually(lambda: _is_idle(client, replica))


async def test_leaving_mid_stream_frees_the_engine(
    replica: SimulatedReplica, client: aiohttp.ClientSession
) -> None:
    async with client.post(replica.url + CHAT, json=_endless(stream=True)) as response:
        await response.content.readline()
        assert replica.driver.core.running == 1
        response.close()
    await _becomes_idle(client, replica)


@pytest.mark.parametrize("stream", [True, False])
async def test_leaving_while_waiting_or_prefilling_frees_the_engine(
    stream: bool, replica: SimulatedReplica, client: aiohttp.ClientSession
) -> None:
    core = replica.driver.core
    calls = [
        asyncio.create_task(client.post(replica.url + CHAT, json=_endless(stream=stream)))
        for _ in range(4)
    ]
    await eventually(lambda: (core.running, core.waiting) == (2, 2))
    for call in calls:
        call.cancel()
    for answer in await asyncio.gather(*calls, return_exceptions=True):
        if isinstance(answer, aiohttp.ClientResponse):
            answer.close()
    await _becomes_idle(client, replica)


async def test_a_unary_caller_who_left_is_noticed_at_the_poll_only(
    client: aiohttp.ClientSession,
) -> None:
    async with serve_replicas(SimulatedSettings(disconnect_poll_s=30.0)) as (replica,):
        core = replica.driver.core
        call = asyncio.create_task(client.post(replica.url + CHAT, json=_endless(rid="u" * 32)))
        await eventually(lambda: core.running == 1)
        call.cancel()
        steps = core.counters.steps
        await eventually(lambda: core.counters.steps > steps + 3)
        assert core.running == 1
        async with client.post(replica.url + "/abort_request", json={"rid": "u" * 32}) as answer:
            assert (answer.status, await answer.read()) == (200, b"")
        await _becomes_idle(client, replica)


async def test_a_stream_left_before_its_first_token_is_noticed_at_the_poll_only(
    client: aiohttp.ClientSession,
) -> None:
    settings = SimulatedSettings(max_running=1, disconnect_poll_s=30.0)
    async with serve_replicas(settings) as (replica,):
        core = replica.driver.core
        url = replica.url + CHAT
        async with client.post(url, json=_endless(stream=True)) as running:
            waiting = _endless(stream=True, rid="w" * 32)
            queued = asyncio.create_task(client.post(url, json=waiting))
            await eventually(lambda: core.waiting == 1)
            queued.cancel()
            steps = core.counters.steps
            await eventually(lambda: core.counters.steps > steps + 3)
            assert core.waiting == 1
            await client.post(replica.url + "/abort_request", json={"rid": "w" * 32})
            await eventually(lambda: core.waiting == 0)
            running.close()
        await _becomes_idle(client, replica)


async def test_an_abort_by_prefix_ends_streams_and_unary_calls_in_every_phase(
    replica: SimulatedReplica, client: aiohttp.ClientSession
) -> None:
    core = replica.driver.core

    async def call(rid: str, stream: bool) -> str:
        options = {"stream_options": {"include_usage": True}} if stream else {}
        asked = _endless(rid=rid, stream=stream, **options)
        async with client.post(replica.url + CHAT, json=asked) as response:
            assert response.status == 200
            return await response.text()

    calls = [asyncio.create_task(call(f"x-{i}", i % 2 == 0)) for i in range(4)]
    other = asyncio.create_task(call("y-0", False))
    await eventually(lambda: core.running == 2 and core.waiting == 3)
    await client.post(replica.url + "/abort_request", json={"rid": "unknown"})
    await client.post(replica.url + "/abort_request", json={"rid": "x-"})
    for i, text in enumerate(await asyncio.gather(*calls)):
        if i % 2 == 0:
            *_, finish, usage, done = frames_of(text)
            assert finish["choices"][0]["finish_reason"] == "abort"
            assert (usage["choices"], done) == ([], "[DONE]")
        else:
            assert orjson.loads(text)["choices"][0]["finish_reason"] == "abort"
    assert not other.done()
    await client.post(replica.url + "/abort_request", json={"rid": "", "abort_all": True})
    await other
    await _becomes_idle(client, replica)


async def test_a_full_queue_is_503_or_a_frame_in_a_200(client: aiohttp.ClientSession) -> None:
    settings = SimulatedSettings(max_running=1, max_queued=1)
    async with serve_replicas(settings) as (replica,):
        url = replica.url + CHAT
        held = [asyncio.create_task(client.post(url, json=_endless(stream=True)))]
        await eventually(lambda: replica.driver.core.running == 1)
        held.append(asyncio.create_task(client.post(url, json=_endless(stream=True))))
        await eventually(lambda: replica.driver.core.waiting == 1)
        async with client.post(url, json=_endless()) as unary:
            body = await unary.text()
        assert (unary.status, body) == (
            503,
            '{"object":"error","message":"The request queue is full.","type":"503",'
            '"param":null,"code":503}',
        )
        async with client.post(url, json=_endless(stream=True)) as stream:
            assert stream.status == 200
            assert await stream.text() == (
                'data: {"error": {"object": "error", "message": "The request queue is full.", '
                '"type": "SERVICE_UNAVAILABLE", "param": null, "code": 503}}\n\ndata: [DONE]\n\n'
            )
        (await held[0]).close()
        (await held[1]).close()
        await _becomes_idle(client, replica)


async def test_several_choices_are_all_or_none_and_end_together(
    client: aiohttp.ClientSession,
) -> None:
    async with serve_replicas(SimulatedSettings(max_running=1, max_queued=3)) as (replica,):
        refused = await client.post(replica.url + CHAT, json=_endless(n=9))
        assert refused.status == 503
        await _becomes_idle(client, replica)
        asked = _endless(n=2, stream=True, max_tokens=3)
        async with client.post(replica.url + CHAT, json=asked) as response:
            frames = frames_of(await response.text())
    finishes = [f["choices"][0] for f in frames[:-1] if f["choices"][0]["finish_reason"]]
    assert [c["index"] for c in finishes] == [0, 1]
    assert frames[-1] == "[DONE]"


async def test_a_drain_says_503_and_lets_streams_finish(client: aiohttp.ClientSession) -> None:
    async with serve_replicas(SimulatedSettings()) as replicas:
        replica = replicas[0]
        asked = _endless(stream=True, max_tokens=20)
        async with client.post(replica.url + CHAT, json=asked) as response:
            draining = asyncio.create_task(drain(replicas))
            await eventually(lambda: replica.draining)
            for path in ("/ready", "/health"):
                assert (await client.get(replica.url + path)).status == 503
            assert frames_of(await response.text())[-1] == "[DONE]"
        await draining


async def test_streams_break_where_they_are_told_to(client: aiohttp.ClientSession) -> None:
    async with serve_replicas(SimulatedSettings()) as (replica,):
        url = replica.url + CHAT
        short = _endless(stream=True, max_tokens=10)
        replica.faults = Faults(error_after_frames=3)
        async with client.post(url, json=short) as response:
            frames = frames_of(await response.text())
        assert [("error" in f) for f in frames] == [False, False, False, True, False]
        replica.faults = Faults(abort_after_frames=0)
        async with client.post(url, json=short) as response:
            frames = frames_of(await response.text())
        assert frames[1]["choices"][0]["finish_reason"] == "abort"
        assert len(frames) == 3
        replica.faults = Faults(die_after_frames=2)
        with pytest.raises(aiohttp.ClientError):
            async with client.post(url, json=short) as response:
                await response.text()
        await _becomes_idle(client, replica)


async def test_a_stream_can_hang_and_still_be_left(client: aiohttp.ClientSession) -> None:
    async with serve_replicas(SimulatedSettings(faults=Faults(hang_after_frames=2))) as (replica,):
        core = replica.driver.core
        asked = _endless(stream=True, max_tokens=5)
        async with client.post(replica.url + CHAT, json=asked) as response:
            assert len(frames_of((await response.content.readany()).decode())) == 2
            await eventually(lambda: core.counters.ended == 1)
            assert replica.live_calls == 1
            response.close()
        await _becomes_idle(client, replica)


async def test_calls_fail_at_the_rates_that_are_set(client: aiohttp.ClientSession) -> None:
    async with serve_replicas(SimulatedSettings()) as (replica,):
        url = replica.url + CHAT
        replica.faults = Faults(fail_rate=1.0)
        assert (await client.post(url, json=_endless())).status == 500
        replica.faults = Faults(refuse_rate=1.0)
        assert (await client.post(url, json=_endless())).status == 503
        replica.faults = Faults(not_ready=True)
        assert (await client.get(replica.url + "/ready")).status == 503
        replica.faults = Faults(hang_accept=True)
        pending = asyncio.create_task(client.get(replica.url + "/ready"))
        done, _ = await asyncio.wait({pending}, timeout=0.2)
        assert not done
        pending.cancel()
        replica.faults = Faults(slowdown=2.0)
        assert replica.driver.core.law.c0_s == pytest.approx(21e-3)


def test_faults_are_read_from_a_command_line() -> None:
    read = Faults.parse("die_after_frames=5,stream_rate=0.5,not_ready")
    assert read == Faults(die_after_frames=5, stream_rate=0.5, not_ready=True)
    with pytest.raises(ValueError, match="unknown fault 'nope'"):
        Faults.parse("nope=1")


async def test_calls_leave_no_circles_for_the_collector(
    replica: SimulatedReplica, client: aiohttp.ClientSession
) -> None:
    """A collection of what thousands of calls left would hold up every stream of the replica."""

    async def ask(**more: object) -> None:
        body = {**_endless(**more), "max_tokens": 3}
        async with client.post(replica.url + CHAT, json=body) as response:
            assert response.status == 200
            await response.read()

    async def leave(**more: object) -> None:
        try:
            async with asyncio.timeout(0.05):
                async with client.post(replica.url + CHAT, json=_endless(**more)) as response:
                    await response.read()
        except TimeoutError:
            pass

    async def all_ways() -> None:
        for stream in (True, False):
            await ask(stream=stream)
            await ask(stream=stream, n=2)
            await leave(stream=stream)
        await _becomes_idle(client, replica)

    async def left() -> Counter[str]:
        gc.collect()
        gc.disable()
        gc.set_debug(gc.DEBUG_SAVEALL)
        try:
            for _ in range(3):
                await all_ways()
            gc.collect()
            return Counter(type(each).__qualname__ for each in gc.garbage if _is_ours(each))
        finally:
            gc.set_debug(0)
            gc.garbage.clear()
            gc.enable()

    await all_ways()
    # What other tests' ends left may be found meanwhile, once; calls leave it anew.
    names = await left() and await left()
    assert names == {}


def _is_ours(thing: object) -> bool:
    return str(getattr(type(thing), "__module__", "")).startswith("backends")
