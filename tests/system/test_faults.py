"""What a killed, hung or draining process costs: its own calls at most, and those are told."""

import asyncio
import signal
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest

from backends.simulated.server import serve_replicas
from backends.simulated.settings import Faults, SimulatedSettings
from gateway.keys import Grant
from tests.gateways import RunningGateway, running_gateway, until
from tests.system.processes import StoreProcess, gateway_process, simulated_replica
from tests.waiting import eventually

pytestmark = [pytest.mark.system, pytest.mark.xdist_group("faults")]

MODEL = "llama2-70b"
CHAT = "/v1/chat/completions"


def body(tokens: int, *, stream: bool = True, **more: Any) -> dict[str, Any]:
    """Give a chat that takes about ten milliseconds a token."""
    messages = [{"role": "user", "content": "Hello"}]
    found = {"model": MODEL, "messages": messages, "max_tokens": tokens, "ignore_eos": True}
    return {**found, "stream": stream, **more}


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as found:
        yield found


@pytest.fixture
def store() -> Iterator[StoreProcess]:
    # A short path: a socket's name has about a hundred bytes.
    with tempfile.TemporaryDirectory(prefix="store-") as directory:
        found = StoreProcess(Path(directory))
        yield found
        found.close()


class Stream:
    """One stream that is read in the background."""

    def __init__(self, session: aiohttp.ClientSession, url: str, tokens: int, **headers: str):
        self.data = b""
        self.status = 0
        self._task = asyncio.create_task(self._read(session, url, tokens, headers))

    async def _read(
        self, session: aiohttp.ClientSession, url: str, tokens: int, headers: dict[str, str]
    ) -> None:
        async with session.post(f"{url}{CHAT}", json=body(tokens), headers=headers) as reply:
            self.status = reply.status
            async for data in reply.content.iter_any():
                self.data += data

    async def end(self) -> bytes:
        """Wait for its end."""
        async with asyncio.timeout(60):
            await self._task
        return self.data

    @property
    def error(self) -> dict[str, Any] | None:
        """The error frame, if there is one."""
        for frame in self.data.split(b"\n\n"):
            if frame.startswith(b'data: {"error"'):
                found: dict[str, Any] = orjson.loads(frame[6:])["error"]
                return found
        return None


async def started(streams: list[Stream]) -> None:
    """Wait until every stream has something."""
    await until(lambda: all(stream.data for stream in streams))


async def test_kill_9_of_a_replica_ends_its_streams_with_an_error_and_no_others(
    tmp_path: Path, redis_url: str, session: aiohttp.ClientSession
) -> None:
    with (
        simulated_replica(tmp_path, "a") as first,
        simulated_replica(tmp_path, "b") as second,
    ):
        urls = [first.url, second.url]
        async with running_gateway(redis_url, {MODEL: urls}) as gateway:
            streams = [Stream(session, gateway.url, 300) for _ in range(8)]
            await started(streams)
            running = gateway.services.ledger.running
            ids = {s.replica.url: s.replica.id for s in _standings(gateway)}
            assert [running(ids[url]) for url in urls] == [4, 4]
            first.process.kill()
            for stream in streams:
                data = await stream.end()
                assert data.endswith(b"data: [DONE]\n\n")
                assert stream.status == 200
            broken = [s.error for s in streams if s.error is not None]
            assert len(broken) == 4
            assert {e["code"] for e in broken} == {"stream_broken"}
            # New calls go to the other one, at once and without an error.
            for stream_it in (True, False):
                for _ in range(6):
                    asked = body(3, stream=stream_it)
                    async with session.post(f"{gateway.url}{CHAT}", json=asked) as reply:
                        assert reply.status == 200
                        assert b"error" not in await reply.read()
            await until(lambda: not any(gateway.leftovers().values()))


async def test_kill_9_of_the_only_replica_is_told_and_its_return_is_found(
    tmp_path: Path, redis_url: str, session: aiohttp.ClientSession, free_port: int
) -> None:
    port = ("--port", str(free_port))
    url = f"http://127.0.0.1:{free_port}"
    async with running_gateway(redis_url, {MODEL: [url]}, ready=False) as gateway:
        with simulated_replica(tmp_path, "a", *port) as replica:
            await until(lambda: _routable(gateway) == [url])
            replica.process.kill()
            async with session.post(f"{gateway.url}{CHAT}", json=body(3)) as reply:
                assert reply.status in {502, 503}
                assert (await reply.json())["error"]["code"] in {"engine_error", "no_replica_ready"}
            await until(lambda: _routable(gateway) == [])
            async with session.post(f"{gateway.url}{CHAT}", json=body(3)) as reply:
                assert reply.status == 503
                assert int(reply.headers["retry-after"]) >= 1
        (tmp_path / "a.json").unlink()
        with simulated_replica(tmp_path, "a", *port):
            await until(lambda: _routable(gateway) == [url])
            async with session.post(f"{gateway.url}{CHAT}", json=body(3)) as reply:
                assert reply.status == 200


async def test_kill_9_of_the_store_loses_no_call(
    store: StoreProcess, session: aiohttp.ClientSession
) -> None:
    settings = SimulatedSettings(model=MODEL, replicas=2)
    async with (
        serve_replicas(settings) as replicas,
        running_gateway(store.url, {MODEL: [r.url for r in replicas]}, no_auth=False) as gateway,
    ):
        keys = gateway.services.keys
        known, _ = await keys.create(Grant(name="known"))
        unseen, _ = await keys.create(Grant(name="unseen"))
        by_key = {"authorization": f"Bearer {known}"}
        streams = [Stream(session, gateway.url, 150, **by_key) for _ in range(4)]
        await started(streams)
        store.process.kill()

        # Calls in flight end well, and a known key is served while the store is away.
        for _ in range(3):
            async with session.post(f"{gateway.url}{CHAT}", json=body(3), headers=by_key) as reply:
                assert reply.status == 200
        for stream in streams:
            assert (await stream.end()).endswith(b"data: [DONE]\n\n")
            assert stream.error is None
        await until(lambda: not gateway.services.registry.store_ok)
        async with session.get(f"{gateway.url}/readyz") as reply:
            assert reply.status == 200

        # A key that nobody has seen cannot be verified; it is told when to come back.
        other = {"authorization": f"Bearer {unseen}"}
        async with session.post(f"{gateway.url}{CHAT}", json=body(3), headers=other) as reply:
            assert reply.status == 503
            assert int(reply.headers["retry-after"]) >= 1
            assert (await reply.json())["error"]["code"] == "key_store_unavailable"

        store.start()
        await until(lambda: gateway.services.registry.store_ok)

        async def serves() -> bool:
            async with session.post(f"{gateway.url}{CHAT}", json=body(3), headers=other) as reply:
                return reply.status == 200

        await eventually(serves)
        await until(lambda: not any(gateway.leftovers().values()))


async def test_a_replica_that_never_answers_is_ejected_and_hurts_no_other(
    redis_url: str, session: aiohttp.ClientSession
) -> None:
    settings = SimulatedSettings(model=MODEL, replicas=2)
    async with (
        serve_replicas(settings) as (hung, well),
        running_gateway(
            redis_url,
            {MODEL: [hung.url, well.url]},
            timeouts={"first_byte_s": 0.5, "connect_s": 0.5},
        ) as gateway,
    ):
        hung.faults = Faults(hang_accept=True)
        for _ in range(12):
            async with session.post(f"{gateway.url}{CHAT}", json=body(3)) as reply:
                assert reply.status == 200
                assert b"error" not in await reply.read()
        await until(lambda: _routable(gateway) == [well.url])
        hung.faults = Faults()
        await until(lambda: len(_routable(gateway)) == 2, 60)


async def test_a_replica_that_drains_gets_nothing_new_and_ends_what_it_has(
    redis_url: str, session: aiohttp.ClientSession
) -> None:
    settings = SimulatedSettings(model=MODEL, replicas=2)
    async with (
        serve_replicas(settings) as (drained, other),
        running_gateway(redis_url, {MODEL: [drained.url, other.url]}) as gateway,
    ):
        streams = [Stream(session, gateway.url, 250) for _ in range(4)]
        await started(streams)
        assert drained.live_calls == 2
        drained.draining = True
        await until(lambda: _routable(gateway) == [other.url])
        for _ in range(6):
            async with session.post(f"{gateway.url}{CHAT}", json=body(3)) as reply:
                assert reply.status == 200
            assert drained.live_calls <= 2
        for stream in streams:
            assert (await stream.end()).endswith(b"data: [DONE]\n\n")
            assert stream.error is None


async def test_sigterm_lets_streams_end_and_takes_nothing_new(
    tmp_path: Path, store: StoreProcess, session: aiohttp.ClientSession
) -> None:
    with (
        simulated_replica(tmp_path, "a") as replica,
        gateway_process(tmp_path, store.url, [replica.url]) as (process, base_url),
    ):
        url = base_url.removesuffix("/v1")
        await eventually(lambda: _is_ready(session, url))
        kept = await asyncio.open_connection(*_address(url))  # idle when the signal comes
        streams = [Stream(session, url, 200) for _ in range(3)]
        await started(streams)
        process.popen.send_signal(signal.SIGTERM)
        await eventually(lambda: _is_gone(session, url))
        for stream in streams:
            assert (await stream.end()).endswith(b"data: [DONE]\n\n")
            assert stream.error is None
        assert await asyncio.to_thread(process.popen.wait, 20) == 0
        kept[1].close()
        await kept[1].wait_closed()


async def test_a_second_signal_ends_at_once(
    tmp_path: Path, store: StoreProcess, session: aiohttp.ClientSession
) -> None:
    with (
        simulated_replica(tmp_path, "a") as replica,
        gateway_process(tmp_path, store.url, [replica.url]) as (process, base_url),
    ):
        url = base_url.removesuffix("/v1")
        await eventually(lambda: _is_ready(session, url))
        stream = Stream(session, url, 3000)
        await started([stream])
        process.popen.send_signal(signal.SIGTERM)
        await eventually(lambda: _is_gone(session, url))
        process.popen.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(process.popen.wait, 10) in {0, 130}
        # Even so the caller is told.
        assert (await stream.end()).endswith(b"data: [DONE]\n\n")
        assert stream.error is not None
        assert stream.error["code"] == "stream_broken"


def _standings(gateway: RunningGateway) -> Any:
    return gateway.services.registry.fleet.pool(MODEL).standings


def _routable(gateway: RunningGateway) -> list[str]:
    return [s.replica.url for s in gateway.services.registry.fleet.pool(MODEL).routable]


def _address(url: str) -> tuple[str, int]:
    host, _, port = url.removeprefix("http://").partition(":")
    return host, int(port)


async def _is_ready(session: aiohttp.ClientSession, url: str) -> bool:
    async with session.get(f"{url}/readyz") as reply:
        return reply.status == 200


async def _is_gone(session: aiohttp.ClientSession, url: str) -> bool:
    """Whether a newcomer is turned away: not ready, or no longer listened to."""
    try:
        return not await _is_ready(session, url)
    except aiohttp.ClientError:
        return True
