"""Gateways and workers replaced one after the other, under load: does any call or row fail?

Callers know two addresses, as a proxy before the gateways does: who is refused a connection, or
told that this gateway shuts down, goes to the other. Nothing that was answered is asked again.
"""

import asyncio
import itertools
import os
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest
import yaml

from tests.system.processes import (
    START_WITHIN_S,
    Process,
    StoreProcess,
    poll,
    process,
    simulated_replica,
)
from tests.waiting import eventually

pytestmark = [
    pytest.mark.system,
    pytest.mark.xdist_group("rolling"),
    pytest.mark.timeout(240),
]

MODEL = "llama2-70b"
STREAMS, ROWS, TOKENS = 6, 120, 40
MESSAGES = [{"role": "user", "content": "Hello"}]


@dataclass
class Site:
    """What is replaced, and by what."""

    directory: Path
    store_url: str
    config: Path
    ports: tuple[int, int]
    stack: ExitStack
    counter: "itertools.count[int]" = field(default_factory=itertools.count)

    def begin(self, *words: str, says: str) -> Process:
        """Start one command of ours, and wait until it says that it serves."""
        log = self.directory / f"{words[0]}-{next(self.counter)}.log"
        argv = [sys.executable, "-m", "gateway.cli", *words, "--redis-url", self.store_url]
        argv += ["--config", str(self.config), "--data-dir", str(self.directory)]
        found = self.stack.enter_context(process(log, *argv))
        poll(lambda: says in log.read_text(), found, START_WITHIN_S)
        return found

    def gateway(self, port: int) -> Process:
        """Start a gateway."""
        words = ("--port", str(port), "--admin-port", "0")
        return self.begin("gateway", *words, says="sluice gateway: ")

    def worker(self) -> Process:
        """Start a worker."""
        return self.begin("worker", says="sluice worker: ")

    @property
    def addresses(self) -> list[str]:
        """The gateways' URLs."""
        return [f"http://127.0.0.1:{port}" for port in self.ports]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """A store and two replicas; no gateway yet."""
    with ExitStack() as stack:
        # A short path: a socket's name has about a hundred bytes.
        short = stack.enter_context(tempfile.TemporaryDirectory(prefix="store-"))
        store = StoreProcess(Path(short))
        stack.callback(store.close)
        replicas = [
            stack.enter_context(simulated_replica(tmp_path, name, "--max-running-requests", "64"))
            for name in ("a", "b")
        ]
        config = tmp_path / "sluice.yaml"
        settings = {
            "no_auth": True,
            "models": {MODEL: {"replicas": [{"url": each.url} for each in replicas]}},
            "telemetry": {"log_level": "warning"},
        }
        config.write_text(yaml.safe_dump(settings))
        with free_ports() as ports:
            pass
        yield Site(tmp_path, store.url, config, ports, stack)


@contextmanager
def free_ports() -> Iterator[tuple[int, int]]:
    """Two loopback ports that nobody listens on."""
    with socket.socket() as one, socket.socket() as two:
        for each in (one, two):
            each.bind(("127.0.0.1", 0))
        yield one.getsockname()[1], two.getsockname()[1]


class Caller:
    """Calls, one after another, by whichever address takes them."""

    def __init__(self, addresses: list[str], session: aiohttp.ClientSession) -> None:
        self._addresses = itertools.cycle(addresses)
        self._session = session
        self.answered = 0
        self.turned_away = 0
        self.failed: list[str] = []

    async def run(self, stop: asyncio.Event) -> None:
        """Call until told to stop."""
        while not stop.is_set():
            try:
                why = await self.call()
            except (aiohttp.ClientError, TimeoutError) as error:
                why = repr(error)
            if why is None:
                self.answered += 1
            else:
                self.failed.append(why)

    async def call(self) -> str | None:
        """Have one stream; say what was wrong with it."""
        for _ in range(20):
            url = f"{next(self._addresses)}/v1/chat/completions"
            body = {"model": MODEL, "messages": MESSAGES, "max_tokens": TOKENS, "stream": True}
            body |= {"ignore_eos": True, "stream_options": {"include_usage": True}}
            try:
                async with self._session.post(url, json=body) as answer:
                    data = await answer.read()
            except aiohttp.ClientConnectorError:
                self.turned_away += 1
                await asyncio.sleep(0.05)
                continue
            if answer.status == 503 and b"shutting_down" in data:
                self.turned_away += 1
                continue
            is_whole = data.endswith(b"data: [DONE]\n\n") and b'"error"' not in data
            counted = f'"completion_tokens":{TOKENS}'.encode() in data
            return None if answer.status == 200 and is_whole and counted else repr(data[-300:])
        return "no gateway took it"


async def ask(
    session: aiohttp.ClientSession, site: Site, method: str, path: str, **how: Any
) -> Any:
    """Ask whichever gateway answers."""
    for url in itertools.islice(itertools.cycle(site.addresses), 40):
        try:
            async with session.request(method, url + path, **how) as answer:
                body = orjson.loads(await answer.read())
        except aiohttp.ClientConnectorError:
            await asyncio.sleep(0.05)
            continue
        if answer.status == 200:
            return body
        assert answer.status == 503, body
    raise AssertionError("no gateway answers")


async def batch(session: aiohttp.ClientSession, site: Site) -> str:
    """Give a batch to the workers."""
    body = {"model": MODEL, "messages": MESSAGES, "max_tokens": 200, "ignore_eos": True}
    lines = b"\n".join(
        orjson.dumps(
            {"custom_id": f"{n}", "method": "POST", "url": "/v1/chat/completions", "body": body}
        )
        for n in range(ROWS)
    )
    form = aiohttp.FormData({"purpose": "batch"})
    form.add_field("file", lines, filename="rows.jsonl")
    file = await ask(session, site, "POST", "/v1/files", data=form)
    new = {"input_file_id": file["id"], "endpoint": "/v1/chat/completions"}
    made = await ask(session, site, "POST", "/v1/batches", json={**new, "completion_window": "24h"})
    return str(made["id"])


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    """One connection per call, as most callers make."""
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(force_close=True, limit=0),
        timeout=aiohttp.ClientTimeout(total=90),
    ) as found:
        yield found


async def test_gateways_and_workers_are_replaced_and_nothing_fails(
    site: Site, session: aiohttp.ClientSession
) -> None:
    gateways = [await asyncio.to_thread(site.gateway, port) for port in site.ports]
    workers = [await asyncio.to_thread(site.worker) for _ in range(2)]
    callers = [Caller(site.addresses, session) for _ in range(STREAMS)]
    stop = asyncio.Event()

    def answered() -> int:
        return sum(each.answered for each in callers)

    async with AsyncExitStack() as stack:
        running = [asyncio.create_task(each.run(stop)) for each in callers]
        stack.callback(lambda: [each.cancel() for each in running])
        await eventually(lambda: answered() > STREAMS, within_s=60)
        job = await batch(session, site)
        for index, port in enumerate(site.ports):
            before = answered()
            assert await asyncio.to_thread(gateways[index].end, signal.SIGTERM) == 0
            assert await asyncio.to_thread(workers[index].end, signal.SIGTERM) == 0
            await eventually(lambda before=before: answered() > before, within_s=60)  # type: ignore[misc]
            workers[index] = await asyncio.to_thread(site.worker)
            gateways[index] = await asyncio.to_thread(site.gateway, port)
            before = answered()
            await eventually(lambda before=before: answered() > before + STREAMS, within_s=60)  # type: ignore[misc]
        stop.set()
        await asyncio.gather(*running)

        async def has_ended() -> bool:
            found = await ask(session, site, "GET", f"/v1/batches/{job}")
            return found["completed_at"] is not None

        await eventually(has_ended, within_s=90, every_s=0.5)
    found = await ask(session, site, "GET", f"/v1/batches/{job}")
    assert [why for each in callers for why in each.failed] == []
    assert sum(each.turned_away for each in callers) > 0  # they did meet a gateway that was away
    assert found["status"] == "completed"
    assert found["request_counts"] == {"total": ROWS, "completed": ROWS, "failed": 0}
    assert [await asyncio.to_thread(each.end) for each in (*gateways, *workers)] == [0] * 4


async def test_a_caller_on_an_idle_connection_is_told_that_it_closes(site: Site) -> None:
    """A request that crossed the close would be lost without a word."""
    port = site.ports[0]
    gateway = await asyncio.to_thread(site.gateway, port)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)

    async def asked() -> bytes:
        writer.write(b"GET /v1/models HTTP/1.1\r\nhost: g\r\n\r\n")
        head = await reader.readuntil(b"\r\n\r\n")
        length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
        await reader.readexactly(int(length))
        return head

    assert b"connection: close" not in await asked()
    os.kill(gateway.pid, signal.SIGTERM)
    async with asyncio.timeout(10):
        while b"connection: close" not in await asked():
            await asyncio.sleep(0.02)
        assert await reader.read() == b""
    writer.close()
    assert await asyncio.to_thread(gateway.popen.wait, 20) == 0
