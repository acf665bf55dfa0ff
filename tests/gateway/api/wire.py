"""Bytes to a gateway and what comes back, without a client that would mend either."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httptools
import orjson

ANSWER_WITHIN_S = 20.0


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer as it was on the wire, its chunks joined."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def error(self) -> dict[str, Any]:
        """The error, which has all four keys of OpenAI's envelope."""
        document = orjson.loads(self.body)
        assert set(document) == {"error"}
        found: dict[str, Any] = document["error"]
        assert set(found) == {"message", "type", "param", "code"}
        assert isinstance(found["message"], str)
        assert found["message"]
        assert isinstance(found["type"], str)
        assert found["param"] is None or isinstance(found["param"], str)
        assert found["code"] is None or isinstance(found["code"], str)
        assert self.headers["x-request-id"].startswith("req_")
        assert self.headers["openai-processing-ms"].isdecimal()
        assert "Traceback" not in found["message"]
        return found


class Wire:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._left = b""

    async def send(self, data: bytes) -> None:
        """Send bytes."""
        self._writer.write(data)
        await self._writer.drain()

    async def reply(self, *, to_head: bool = False) -> Reply:
        """Read one answer (to a HEAD: without its body)."""
        parser = _Reading()
        async with asyncio.timeout(ANSWER_WITHIN_S):
            while True:
                data, self._left = self._left, b""
                data = data or await self._reader.read(65536)
                if not data:
                    assert parser.headers_done, "the connection closed without an answer"
                    break
                self._left = parser.feed(data)
                if parser.complete or (to_head and parser.headers_done):
                    break
        return Reply(parser.status, parser.headers, bytes(parser.body))

    async def line(self) -> bytes:
        """Read one line."""
        async with asyncio.timeout(ANSWER_WITHIN_S):
            return await self._reader.readline()

    async def is_closed(self) -> bool:
        """Wait for the other side's end; False where bytes come instead."""
        async with asyncio.timeout(ANSWER_WITHIN_S):
            try:
                return not self._left and not await self._reader.read(1)
            except ConnectionError:
                return True


class _Reading:
    """Reads one answer and tells what was left over."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body = bytearray()
        self.headers_done = False
        self.complete = False
        self._parser = httptools.HttpResponseParser(self)

    def feed(self, data: bytes) -> bytes:
        """Take bytes; give those that belong to the next answer."""
        for at in range(len(data)):  # byte by byte: the parser does not say where it stopped
            self._parser.feed_data(data[at : at + 1])
            if self.complete:
                return data[at + 1 :]
        return b""

    def on_message_begin(self) -> None:
        self.headers_done = False

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers[name.decode().lower()] = value.decode()

    def on_headers_complete(self) -> None:
        self.status = self._parser.get_status_code()
        self.headers_done = self.status >= 200

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        self.complete = self.status >= 200


@asynccontextmanager
async def wire(port: int) -> AsyncIterator[Wire]:
    """Connect, and be gone at the end."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield Wire(reader, writer)
    finally:
        writer.transport.abort()
        try:
            await writer.wait_closed()
        except ConnectionError:
            pass


async def exchange(port: int, data: bytes) -> Reply:
    """Send bytes on a connection of their own and read one answer."""
    async with wire(port) as connection:
        await connection.send(data)
        return await connection.reply()


def request(
    path: str,
    body: bytes = b"",
    *,
    method: str = "POST",
    headers: Mapping[str, str] = {},
    version: str = "1.1",
) -> bytes:
    """Give a request's bytes, with a length unless the headers say otherwise."""
    found = {"host": "x", "content-type": "application/json", **headers}
    if "transfer-encoding" not in found:
        found.setdefault("content-length", str(len(body)))
    lines = "".join(f"{name}: {value}\r\n" for name, value in found.items())
    return f"{method} {path} HTTP/{version}\r\n{lines}\r\n".encode("latin-1") + body
