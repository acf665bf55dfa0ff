"""How does an answer reach the caller's socket without an `await` per chunk?"""

from collections.abc import Sequence

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from gateway.protocol import Turn
from gateway.sink import Flow, Header


class DirectSink:
    """Writes an answer straight to the caller's transport, a stream's pieces as one chunk each.

    uvicorn's `send` is passed by: it writes the head by itself, which is a system call more per
    answer (in Python both cost the same). What it keeps of an answer is kept here, too, so that
    keep-alive, pipelining and its own checks go on.
    A caller of HTTP/1.0, which has no chunks, gets them plain. `more` headers go with any answer.
    """

    def __init__(
        self, turn: Turn, request_id: str, began: float, more: Sequence[Header] = ()
    ) -> None:
        self.started = False
        self._connection = turn.connection
        self._cycle = turn.cycle
        self._transport = turn.connection.transport
        self._request_id = request_id
        self._began = began
        self._more = more
        self._is_chunked = False
        self._head = b""  # goes with the first piece, in one system call

    async def start(self, status: int, headers: Sequence[Header]) -> None:
        """Send status and headers."""
        self.started = True
        cycle = self._cycle
        cycle.response_started = True
        cycle.waiting_for_100_continue = False
        lines = [b"%b: %b" % pair for pair in (*cycle.default_headers, *headers, *self._more)]
        took_ms = (self._connection.loop.time() - self._began) * 1e3
        lines.append(b"x-request-id: %b" % self._request_id.encode())
        lines.append(b"openai-processing-ms: %d" % took_ms)
        for name, _ in headers:
            if name == b"content-length":  # its body follows at once
                break
        else:
            self._connection.loop.call_soon(self._send_head)  # where no piece comes in this turn
            self._is_chunked = cycle.scope["http_version"] != "1.0"
            if self._is_chunked:
                lines.append(b"transfer-encoding: chunked")
        if not cycle.keep_alive:
            lines.append(b"connection: close")
        head = b"\r\n".join(lines)
        if head.count(b"\n") >= len(lines):
            raise ValueError("a header has a line break in it")
        self._head = b"%b%b\r\n\r\n" % (STATUS_LINE[status], head)

    def feed_from(self, flow: Flow | None) -> None:
        """Name the source to hold back when the transport's buffer is full."""
        self._connection.flow_source = flow
        if flow is None:
            return
        if self._is_chunked:
            flow.outlet = self._transport
        if self._connection.flow.write_paused:
            flow.pause_reading()

    def write(self, data: bytes) -> None:
        """Write one chunk, in one system call."""
        if self._transport.is_closing():
            return
        if self._is_chunked:
            data = b"%x\r\n%b\r\n" % (len(data), data)
        if self._head:
            data, self._head = self._head + data, b""
        self._transport.write(data)

    async def finish(self, data: bytes = b"") -> None:
        """Send what is left and end the answer."""
        cycle = self._cycle
        if cycle.disconnected or self._transport.is_closing():
            cycle.disconnected = True  # uvicorn hears of it a turn later, and would miss an end
            return
        if self._is_chunked:
            data = b"%x\r\n%b\r\n0\r\n\r\n" % (len(data), data) if data else b"0\r\n\r\n"
        head, self._head = self._head, b""
        if head or data:
            self._transport.write(head + data)
        cycle.response_complete = True
        cycle.message_event.set()
        if not cycle.keep_alive:
            self._transport.close()
        cycle.on_response()

    def _send_head(self) -> None:
        head, self._head = self._head, b""
        if head and not self._transport.is_closing():
            self._transport.write(head)
