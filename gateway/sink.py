"""Where do relayed bytes go, and who holds them back when the caller reads slowly?"""

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any, Protocol

Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Header = tuple[bytes, bytes]

HIGH_WATER_BYTES = 256 * 1024


class Flow(Protocol):
    """A source that can be held back.

    `outlet` is where its chunks may be written as they are on the wire, which the sink names; None:
    nowhere.
    """

    outlet: asyncio.WriteTransport | None

    def pause_reading(self) -> None:
        """Stop taking bytes from the source's socket."""
        ...

    def resume_reading(self) -> None:
        """Take bytes again."""
        ...


class Sink(Protocol):
    """Where one call's answer goes. `started` once the status line is out: no other answer then."""

    started: bool

    async def start(self, status: int, headers: Sequence[Header]) -> None:
        """Send status and headers."""
        ...

    def feed_from(self, flow: Flow | None) -> None:
        """Name the source to hold back when the caller reads too slowly."""
        ...

    def write(self, data: bytes) -> None:
        """Take a piece of the body; never blocks, never fails."""
        ...

    async def finish(self, data: bytes = b"") -> None:
        """Send what is left and end the answer."""
        ...


class AsgiSink:
    """Any ASGI server: pieces gather while a `send` is under way and then go out as one.

    `more` headers go with any answer.
    """

    def __init__(self, send: Send, more: Sequence[Header] = ()) -> None:
        self.started = False
        self._send = send
        self._more = more
        self._flow: Flow | None = None
        self._pieces: list[bytes] = []
        self._held_bytes = 0
        self._paused = False
        self._pump: asyncio.Task[None] | None = None

    async def start(self, status: int, headers: Sequence[Header]) -> None:
        """Send status and headers."""
        self.started = True
        told = [*headers, *self._more]
        await self._send({"type": "http.response.start", "status": status, "headers": told})

    def feed_from(self, flow: Flow | None) -> None:
        """Name the source to hold back; None lets it go."""
        self._flow = flow
        self._paused = False

    def write(self, data: bytes) -> None:
        """Queue a piece; hold the source back above the high-water mark."""
        self._pieces.append(data)
        self._held_bytes += len(data)
        if self._held_bytes > HIGH_WATER_BYTES and self._flow is not None and not self._paused:
            self._paused = True
            self._flow.pause_reading()
        if self._pump is None or self._pump.done():
            self._pump = asyncio.create_task(self._drain())

    async def finish(self, data: bytes = b"") -> None:
        """Send what is left and end the answer."""
        if self._pump is not None:
            await self._pump
        await self._send({"type": "http.response.body", "body": data, "more_body": False})

    def abandon(self) -> None:
        """Stop sending: the caller has left."""
        if self._pump is not None:
            self._pump.cancel()

    async def _drain(self) -> None:
        while self._pieces:
            data, self._pieces = b"".join(self._pieces), []
            await self._send({"type": "http.response.body", "body": data, "more_body": True})
            self._held_bytes -= len(data)
            if self._paused and self._held_bytes <= HIGH_WATER_BYTES // 2:
                self._paused = False
                if self._flow is not None:
                    self._flow.resume_reading()
