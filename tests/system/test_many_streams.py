"""Five thousand streams are open at once in one gateway process, and each one comes to its end."""

import asyncio
import resource
import sys
from pathlib import Path

import orjson
import pytest
import yaml

from tests.engines import STREAM_HEAD, as_chunk
from tests.system.processes import START_WITHIN_S, poll, process

pytestmark = [pytest.mark.system, pytest.mark.timeout(300), pytest.mark.xdist_group("streams")]

STREAMS = 5000
CHUNKS = 4
MODEL = "m"
OPEN_AT_ONCE = 100  # connections that are being made; listen queues are short
DONE = b"data: [DONE]\n\n"
END = as_chunk(DONE) + b"0\r\n\r\n"
READY = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"


def frame(text: str) -> bytes:
    """One frame."""
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": None}
    return b"data: " + orjson.dumps({"id": "x", "choices": [choice]}) + b"\n\n"


class Engine(asyncio.Protocol):
    """Begins every stream, and goes on with none before all have begun."""

    open: list[asyncio.Transport]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.received = b""

    def data_received(self, data: bytes) -> None:
        self.received += data
        head, found, body = self.received.partition(b"\r\n\r\n")
        if not found:
            return
        if not head.startswith(b"POST /v1/"):
            self.received = b""
            self.transport.write(READY)
        elif body.endswith(b"}"):
            self.received = b""
            self.transport.write(STREAM_HEAD + as_chunk(frame("0")))
            self.open.append(self.transport)


async def read_stream(port: int, body: bytes, gate: asyncio.Semaphore, begun: list[int]) -> bytes:
    """Read one stream as it is on the wire."""
    async with gate:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        head = (
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        )
        writer.write(head + b"content-length: %d\r\n\r\n" % len(body) + body)
        told = await reader.readuntil(as_chunk(frame("0")))
    begun.append(1)
    told += await reader.readuntil(b"0\r\n\r\n")
    writer.close()
    return told


async def test_five_thousand_streams_are_open_at_once(tmp_path: Path, redis_url: str) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 3 * STREAMS:
        pytest.skip(f"this system allows {hard} open files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    loop = asyncio.get_running_loop()
    opened: list[asyncio.Transport] = []
    kind = type("Engine", (Engine,), {"open": opened})
    engine = await loop.create_server(kind, "127.0.0.1", 0, backlog=1024)
    url = f"http://127.0.0.1:{engine.sockets[0].getsockname()[1]}"
    config = tmp_path / "sluice.yaml"
    settings = {
        "no_auth": True,
        "upstream": {"connections_per_replica": 2 * STREAMS},
        "routing": {"policy": "least_outstanding"},
        "models": {MODEL: {"replicas": [{"url": url, "max_running": STREAMS}]}},
        "telemetry": {"log_level": "warning"},
    }
    config.write_text(yaml.safe_dump(settings))
    argv = [sys.executable, "-m", "gateway.cli", "gateway", "--port", "0", "--admin-port", "0"]
    argv += ["--redis-url", redis_url, "--config", str(config), "--data-dir", str(tmp_path)]
    log = tmp_path / "gateway.log"
    with process(log, *argv) as gateway:
        started = asyncio.to_thread(
            poll, lambda: "sluice gateway: " in log.read_text(), gateway, START_WITHIN_S
        )
        await started
        port = int(log.read_text().split("sluice gateway: ")[1].split("/v1")[0].rpartition(":")[2])
        await ready(port)
        body = orjson.dumps(
            {"model": MODEL, "stream": True, "messages": [{"role": "user", "content": "hi"}]}
        )
        gate, begun = asyncio.Semaphore(OPEN_AT_ONCE), list[int]()
        streams = [
            asyncio.create_task(read_stream(port, body, gate, begun)) for _ in range(STREAMS)
        ]
        while len(begun) < STREAMS:
            await asyncio.sleep(0.1)
            for each in streams:
                if each.done():
                    each.result()
                    raise AssertionError("a stream ended before all had begun")
        assert len(opened) == STREAMS
        for number in range(1, CHUNKS):
            for transport in opened:
                transport.write(as_chunk(frame(str(number))))
            await asyncio.sleep(0)
        for transport in opened:
            transport.write(END)
        for told in await asyncio.gather(*streams):
            assert told.startswith(b"HTTP/1.1 200")
            assert [told.count(frame(str(n))) for n in range(CHUNKS)] == [1] * CHUNKS
            assert told.count(DONE) == 1
    engine.close()


async def ready(port: int) -> None:
    """Wait until the gateway knows its replica."""
    while True:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /readyz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        answer = await reader.read()
        writer.close()
        if answer.startswith(b"HTTP/1.1 200"):
            return
        await asyncio.sleep(0.05)
