"""How does a caller's socket reach the relay? uvicorn's protocol, with its transport opened up.

Streams are written to the transport directly, so that a chunk costs no `await`; everything else
(heads, ends, keep-alive, pipelining) stays uvicorn's. Answers that uvicorn gives by itself are
worded as errors of the API, and slow or oversized heads are bounded.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import orjson
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from gateway.errors import GatewayError, InvalidRequest, RequestTimeout, Unavailable, envelope
from gateway.sink import Flow, Header, Send

EXTENSION = "sluice.connection"


class HeadersTooLarge(InvalidRequest):
    """The request's headers are larger than this server reads."""

    status, code = 431, "headers_too_large"


class GatewayProtocol(HttpToolsProtocol):
    """One caller's connection. `on_lost` hears that it is gone while a call is served on it."""

    header_bytes = 64 * 1024
    head_timeout_s = 30.0
    most_connections = 20_000

    on_lost: Callable[[], None] | None = None
    flow_source: Flow | None = None
    _head_timer: asyncio.TimerHandle | None = None
    _head_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Asyncio: a caller has connected."""
        super().connection_made(transport)
        self._await_head()
        if len(self.connections) > self.most_connections:
            self.refuse(Unavailable("Too many connections.", retry_after_s=1.0))

    def connection_lost(self, exc: Exception | None) -> None:
        """Asyncio: the caller has left."""
        self._stop_timer()
        super().connection_lost(exc)
        if self.on_lost is not None:
            self.on_lost()

    def pause_writing(self) -> None:
        """Asyncio: the caller reads too slowly."""
        super().pause_writing()
        if self.flow_source is not None:
            self.flow_source.pause_reading()

    def resume_writing(self) -> None:
        """Asyncio: the caller has caught up."""
        super().resume_writing()
        if self.flow_source is not None:
            self.flow_source.resume_reading()

    def data_received(self, data: bytes) -> None:
        """Asyncio: bytes have come; anything may be in them."""
        if self.transport.is_closing():
            return
        super().data_received(data)

    def on_message_begin(self) -> None:
        """Httptools: a request begins."""
        super().on_message_begin()
        self._head_bytes = 0
        if self._head_timer is None:
            self._await_head()
        self.scope["extensions"] = {EXTENSION: self}  # type: ignore[dict-item]

    def on_url(self, url: bytes) -> None:
        """Httptools: a piece of the request's target."""
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Httptools: one header line."""
        self._count(len(name) + len(value) + 4)
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Httptools: the head is complete."""
        self._stop_timer()
        if not self.transport.is_closing():
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Httptools: a piece of the body."""
        if self.cycle is not None:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """Httptools: the request is complete."""
        if self.cycle is not None:
            super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """Uvicorn: the bytes are not HTTP."""
        self.refuse(InvalidRequest(msg, code="invalid_http"))

    def refuse(self, error: GatewayError) -> None:
        """Answer with an error that no application sees, and close."""
        body = orjson.dumps(envelope(error))
        head = b"HTTP/1.1 %d Error\r\ncontent-type: application/json\r\ncontent-length: %d\r\n"
        self.transport.write(head % (error.status, len(body)) + b"connection: close\r\n\r\n" + body)
        self.transport.close()

    def _count(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > self.header_bytes and not self.transport.is_closing():
            self.refuse(HeadersTooLarge(f"Headers are limited to {self.header_bytes} bytes."))

    def _await_head(self) -> None:
        self._head_timer = self.loop.call_later(self.head_timeout_s, self._head_is_late)

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _head_is_late(self) -> None:
        self._head_timer = None
        if not self.transport.is_closing():
            self.refuse(RequestTimeout("The request's headers did not arrive in time."))


class DirectSink:
    """Writes a stream's pieces straight to the caller's transport, each as one HTTP chunk."""

    def __init__(self, connection: GatewayProtocol, send: Send) -> None:
        self.started = False
        self._connection = connection
        self._transport = connection.transport
        self._send = send

    async def start(self, status: int, headers: Sequence[Header]) -> None:
        """Send status and headers."""
        self.started = True
        await self._send({"type": "http.response.start", "status": status, "headers": [*headers]})

    def feed_from(self, flow: Flow | None) -> None:
        """Name the source to hold back when the transport's buffer is full."""
        self._connection.flow_source = flow
        if flow is not None and self._connection.flow.write_paused:
            flow.pause_reading()

    def write(self, data: bytes) -> None:
        """Write one chunk."""
        if not self._transport.is_closing():
            self._transport.write(b"%x\r\n%b\r\n" % (len(data), data))

    async def finish(self, data: bytes = b"") -> None:
        """Send what is left and end the answer."""
        await self._send({"type": "http.response.body", "body": data, "more_body": False})


def protocol_class(
    *, header_bytes: int, head_timeout_s: float, most_connections: int
) -> type[GatewayProtocol]:
    """Give the protocol with an operator's limits, as a class, since uvicorn wants one."""
    limits: dict[str, Any] = {
        "header_bytes": header_bytes,
        "head_timeout_s": head_timeout_s,
        "most_connections": most_connections,
    }
    return type("LimitedGatewayProtocol", (GatewayProtocol,), limits)
