"""How does a caller's socket reach the relay? uvicorn's protocol, with its transport opened up.

Answers are written to the transport directly (`direct_sink.py`), so that a chunk costs no `await`;
everything else (heads, ends, keep-alive, pipelining) stays uvicorn's. Answers that uvicorn gives by
itself are worded as errors of the API, and slow or oversized heads are bounded.
"""

import asyncio
from collections.abc import Callable
from typing import Any

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser
from msgspec import Struct
from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from gateway.errors import GatewayError, InvalidRequest, RequestTimeout, Unavailable
from gateway.heads import last_answer, without_upgrade
from gateway.sink import Flow

EXTENSION = "sluice.turn"
CONNECT = b"CONNECT"


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
    _drain_timer: asyncio.TimerHandle | None = None
    _head_bytes = 0
    _reads_head = False
    _is_refused = False  # what still comes is not read
    _answering: RequestResponseCycle | None = None
    _asks_to_upgrade = False
    _leaves = False  # the next answer is the last

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Asyncio: a caller has connected."""
        super().connection_made(transport)
        self._await_head()
        if len(self.connections) > self.most_connections:
            self.refuse(Unavailable("Too many connections.", retry_after_s=1.0))

    def connection_lost(self, exc: Exception | None) -> None:
        """Asyncio: the caller has left."""
        self._stop_timer()
        self._stop_draining()
        super().connection_lost(exc)
        if self.on_lost is not None:
            self.on_lost()
        self._let_go()
        self.cycle = None  # type: ignore[assignment]  # as uvicorn begins with

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
        if not self._is_refused and not self.transport.is_closing():
            self._parse(data)
            if self._reads_head and self._head_timer is None and not self._is_refused:
                self._await_head()  # only a head in pieces costs a timer

    def on_message_begin(self) -> None:
        """Httptools: a request begins."""
        if self._is_refused:
            return
        super().on_message_begin()
        self._head_bytes = 0
        self._reads_head = True

    def on_url(self, url: bytes) -> None:
        """Httptools: a piece of the request's target."""
        self._head_bytes += len(url)
        if self._head_bytes > self.header_bytes:
            self._refuse_head()
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Httptools: one header line."""
        self._head_bytes += len(name) + len(value) + 4
        if self._head_bytes > self.header_bytes:
            self._refuse_head()
        name = name.lower()  # what uvicorn does, without a call more for each header
        if name == b"expect" and value.lower() == b"100-continue":
            self.expect_100_continue = True
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        """Httptools: the head is complete."""
        self._reads_head = False
        self._stop_timer()
        if self._is_refused or self.transport.is_closing():
            return
        self._asks_to_upgrade = self.parser.should_upgrade() and self.parser.get_method() != CONNECT
        if not self._asks_to_upgrade:
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Httptools: a piece of the body."""
        if self._has_request and not self._is_refused:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """Httptools: the request is complete."""
        self._stop_draining()
        if self._has_request and not self._is_refused and not self._asks_to_upgrade:
            super().on_message_complete()

    def on_response_complete(self) -> None:
        """Uvicorn: an answer is complete, which an early refusal is before its request is.

        The rest of the request is read and dropped for a while: a client that is still sending
        would see a broken connection instead of the answer.
        """
        self._let_go()
        super().on_response_complete()
        cycle: RequestResponseCycle | None = self.cycle
        if cycle is not None and cycle.response_complete and cycle.more_body:
            self._drain_timer = self.loop.call_later(self.head_timeout_s, self.transport.close)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        """Uvicorn: it is this request's turn."""
        self._answering = cycle
        if self._leaves:
            cycle.keep_alive = False
        cycle.scope["extensions"] = {EXTENSION: Turn(self, cycle)}  # type: ignore[dict-item]
        super()._start_asgi_task(cycle, app)

    def leave(self) -> None:
        """Close after the next answer, or the one that is being given."""
        self._leaves = True
        if self._answering is not None:
            self._answering.keep_alive = False

    def send_400_response(self, msg: str) -> None:
        """Uvicorn: the bytes are not HTTP."""
        self.refuse(InvalidRequest(msg, code="invalid_http"))

    def refuse(self, error: GatewayError) -> None:
        """Answer with an error that no application sees, and close.

        Answers that are due to earlier requests on the connection are given first, and the error
        is then told by the close alone.
        """
        self._is_refused = True
        self._stop_timer()
        cycle: RequestResponseCycle | None = self.cycle
        if cycle is not None and not cycle.response_complete:
            is_next = not self.pipeline and not cycle.response_started
            if not (is_next and cycle.more_body):
                cycle.keep_alive = False
                return
        self.transport.write(last_answer(error))
        self.transport.close()

    def _parse(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        while data and not self._is_refused:
            try:
                self.parser.feed_data(data)
                break
            except HttpParserUpgrade as asked:
                if not self._asks_to_upgrade:
                    break
                method, version = self.parser.get_method(), self.parser.get_http_version()
                head = without_upgrade(method, self.url, version, self.headers)
                data = head + data[asked.args[0] :]
                self.parser = HttpRequestParser(self)
            except HttpParserError:
                self.send_400_response("Invalid HTTP request received.")
                break

    @property
    def _has_request(self) -> bool:
        return self.cycle is not None

    def _let_go(self) -> None:
        """Cut the circle of a request and its turn: thousands of them would wait for the collector,
        which would hold up every stream while it frees them."""
        cycle, self._answering = self._answering, None
        if cycle is not None:
            cycle.scope["extensions"] = {}

    def _refuse_head(self) -> None:
        if not self._is_refused:
            self.refuse(HeadersTooLarge(f"Headers are limited to {self.header_bytes} bytes."))

    def _await_head(self) -> None:
        self._head_timer = self.loop.call_later(self.head_timeout_s, self._head_is_late)

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _stop_draining(self) -> None:
        if self._drain_timer is not None:
            self._drain_timer.cancel()
            self._drain_timer = None

    def _head_is_late(self) -> None:
        self._head_timer = None
        if not self.transport.is_closing():
            self.refuse(RequestTimeout("The request's headers did not arrive in time."))


class Turn(Struct, frozen=True):
    """One request on a connection, which uvicorn calls a cycle, while it is being answered."""

    connection: GatewayProtocol
    cycle: RequestResponseCycle

    def whole_body(self) -> bytes | None:
        """Give the request's body if all of it has come already, as it mostly has."""
        if self.cycle.more_body:
            return None
        body, self.cycle.body = bytes(self.cycle.body), bytearray()
        self.connection.flow.resume_reading()  # so that a caller who leaves is seen
        return body


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
