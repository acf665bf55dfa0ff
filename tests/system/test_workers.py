"""Several processes on one port: what one of them loses by kill -9 is its own, and comes back."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import psutil
import pytest
import yaml
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from tests.system.processes import START_WITHIN_S, Process, poll, process, simulated_replica
from tests.waiting import eventually

pytestmark = [pytest.mark.system, pytest.mark.xdist_group("workers")]

MODEL = "llama2-70b"
WORKERS = 2


@dataclass(frozen=True)
class Gateway:
    """A gateway of several processes."""

    process: Process
    url: str

    def workers(self) -> list[psutil.Process]:
        """The processes that serve."""
        children = psutil.Process(self.process.pid).children()
        return [c for c in children if "gateway.one_worker" in c.cmdline()]


@pytest.fixture
def gateway(tmp_path: Path, redis_url: str) -> Iterator[Gateway]:
    config = tmp_path / "sluice.yaml"
    with simulated_replica(tmp_path, "replica") as replica:
        settings = {
            "no_auth": True,
            "workers": WORKERS,
            "models": {MODEL: {"replicas": [{"url": replica.url}]}},
            "telemetry": {"log_level": "warning"},
        }
        config.write_text(yaml.safe_dump(settings))
        argv = [sys.executable, "-m", "gateway.cli", "gateway", "--port", "0", "--admin-port", "0"]
        argv += ["--redis-url", redis_url, "--config", str(config), "--data-dir", str(tmp_path)]
        log = tmp_path / "gateway.log"
        with process(log, *argv) as found:
            poll(lambda: "sluice gateway: " in log.read_text(), found, START_WITHIN_S)
            url = log.read_text().split("sluice gateway: ")[1].split("/v1")[0]
            yield Gateway(found, url)


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    # A connection per request, so that the kernel spreads them over the processes.
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as found:
        yield found


async def stream(session: aiohttp.ClientSession, url: str, tokens: int) -> bytes:
    """Read one stream; what came before the connection broke, if it did."""
    body = {
        "model": MODEL,
        "messages": [{"role": "user", "content": "Hello"}],
        "max_tokens": tokens,
        "ignore_eos": True,
        "stream": True,
    }
    data = b""
    try:
        async with session.post(f"{url}/v1/chat/completions", json=body) as reply:
            async for piece in reply.content.iter_any():
                data += piece
    except aiohttp.ClientError:
        pass
    return data


async def served(session: aiohttp.ClientSession, url: str) -> float:
    """Count the calls that ended well, in all processes."""
    found: list[float] = []
    for accept, families in (
        ("text/plain", text_string_to_metric_families),
        ("application/openmetrics-text", openmetrics.text_string_to_metric_families),
    ):
        async with session.get(f"{url}/metrics", headers={"accept": accept}) as reply:
            assert reply.content_type == accept
            text = await reply.text()
        found.append(
            sum(
                sample.value
                for family in families(text)
                for sample in family.samples
                if sample.name == "sluice_calls_total" and sample.labels["outcome"] == "ok"
            )
        )
    assert found[0] == found[1]
    return found[0]


async def is_ready(session: aiohttp.ClientSession, url: str) -> bool:
    """Whether whoever answers knows the replica."""
    async with session.get(f"{url}/readyz") as reply:
        return reply.status == 200


async def connected(worker: psutil.Process, port: int) -> int:
    """Count the callers of one process."""
    found = await asyncio.to_thread(worker.net_connections)
    return sum(c.status == "ESTABLISHED" and c.laddr.port == port for c in found)


async def test_a_killed_worker_takes_its_own_calls_and_no_others(
    gateway: Gateway, session: aiohttp.ClientSession
) -> None:
    for _ in range(2 * WORKERS):
        await eventually(lambda: is_ready(session, gateway.url), within_s=START_WITHIN_S)
    done = await asyncio.gather(*(stream(session, gateway.url, 2) for _ in range(12)))
    assert all(each.endswith(b"data: [DONE]\n\n") for each in done)
    assert await served(session, gateway.url) == 12  # whoever is asked, it is all of them

    port = int(gateway.url.rpartition(":")[2])
    streams = [asyncio.create_task(stream(session, gateway.url, 600)) for _ in range(16)]

    async def all_are_connected() -> bool:
        counts = [await connected(w, port) for w in gateway.workers()]
        return sum(counts) >= 16

    await eventually(all_are_connected, within_s=30)
    victim, survivor = gateway.workers()
    kept = await connected(survivor, port)
    os.kill(victim.pid, signal.SIGKILL)
    whole = [s.endswith(b"data: [DONE]\n\n") for s in await asyncio.gather(*streams)]
    assert sum(whole) == kept

    await eventually(lambda: len(gateway.workers()) == WORKERS, within_s=START_WITHIN_S)
    assert (await stream(session, gateway.url, 2)).endswith(b"data: [DONE]\n\n")
    # What the dead one had counted is kept.
    assert await served(session, gateway.url) == 12 + kept + 1


async def test_a_signal_lets_all_workers_finish_what_they_serve(
    gateway: Gateway, session: aiohttp.ClientSession
) -> None:
    for _ in range(2 * WORKERS):
        await eventually(lambda: is_ready(session, gateway.url), within_s=START_WITHIN_S)
    port = int(gateway.url.rpartition(":")[2])
    streams = [asyncio.create_task(stream(session, gateway.url, 300)) for _ in range(8)]

    async def all_are_connected() -> bool:
        counts = [await connected(w, port) for w in gateway.workers()]
        return sum(counts) >= 8

    await eventually(all_are_connected, within_s=30)
    gateway.process.popen.send_signal(signal.SIGTERM)
    done = await asyncio.gather(*streams)
    assert all(each.endswith(b"data: [DONE]\n\n") for each in done)
    assert await asyncio.to_thread(gateway.process.popen.wait, 30) == 0
