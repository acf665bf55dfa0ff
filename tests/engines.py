"""Engines that do exactly what a test tells them: real sockets, scripted answers."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import orjson

READY = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"
STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
    b"transfer-encoding: chunked\r\n\r\n"
)


@dataclass
class Seen:
    """One request that reached the engine."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    peer_left: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def document(self) -> dict[str, object]:
        """The body as JSON."""
        found: dict[str, object] = orjson.loads(self.body)
        return found


Answer = Callable[["Seen", asyncio.StreamWriter], Awaitable[None]]


@dataclass
class ScriptedEngine:
    """An engine on a port: health routes are answered, the rest is `answer`'s."""

    url: str
    answer: Answer
    seen: list[Seen] = field(default_factory=list)
    aborted: list[str] = field(default_factory=list)
    connections: int = 0

    @property
    def calls(self) -> list[Seen]:
        """Requests for inference, in order of arrival."""
        return [s for s in self.seen if s.path.startswith("/v1/") and s.method == "POST"]


@asynccontextmanager
async def scripted_engine(answer: Answer) -> AsyncIterator[ScriptedEngine]:
    """Run an engine that answers every call with `answer`."""
    tasks: set[asyncio.Task[None]] = set()
    engine = ScriptedEngine("", answer)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        engine.connections += 1
        try:
            while (seen := await _request(reader)) is not None:
                engine.seen.append(seen)
                await _respond(engine, seen, reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            engine.connections -= 1
            tasks.discard(task)
            writer.close()
            with contextlib.suppress(ConnectionError, asyncio.CancelledError):
                await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    engine.url = "http://{}:{}".format(*server.sockets[0].getsockname())
    try:
        yield engine
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _request(reader: asyncio.StreamReader) -> Seen | None:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    first, *lines = head.decode().split("\r\n")[:-2]
    method, path, _ = first.split(" ")
    headers = {}
    for line in lines:
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip()
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Seen(method, path, headers, body)


async def _respond(
    engine: ScriptedEngine, seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    if seen.path in ("/ready", "/health"):
        writer.write(READY)
    elif seen.path.startswith("/v1/loads"):
        writer.write(document({"timestamp": "", "version": "0.5.23", "loads": []}))
    elif seen.path == "/abort_request":
        engine.aborted.append(str(seen.document["rid"]))
        writer.write(READY)
    else:
        answering = asyncio.create_task(_answer(engine, seen, writer))
        leaving = asyncio.create_task(_wait_for_eof(reader, seen))
        await asyncio.wait({answering, leaving}, return_when=asyncio.FIRST_COMPLETED)
        leaving.cancel()
        answering.cancel()
        await asyncio.gather(answering, leaving, return_exceptions=True)
        if seen.peer_left.is_set():
            raise ConnectionResetError
    await writer.drain()


async def _answer(engine: ScriptedEngine, seen: Seen, writer: asyncio.StreamWriter) -> None:
    await engine.answer(seen, writer)
    await writer.drain()


async def _wait_for_eof(reader: asyncio.StreamReader, seen: Seen) -> None:
    # The gateway sends nothing while it waits for an answer: bytes cannot come, an end can.
    with contextlib.suppress(ConnectionError):
        if await reader.read(1):
            await asyncio.Event().wait()
    seen.peer_left.set()


def document(body: object, status: int = 200) -> bytes:
    """A JSON answer."""
    data = orjson.dumps(body)
    head = f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {len(data)}"
    return head.encode() + b"\r\n\r\n" + data


def as_chunk(data: bytes) -> bytes:
    """One chunk of a chunked body; no bytes give the end."""
    return b"%x\r\n%b\r\n" % (len(data), data)
