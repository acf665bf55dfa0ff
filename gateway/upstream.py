"""How does a request reach a replica, and its bytes come back without a task per chunk?

An HTTP/1.1 client on asyncio protocols. A connection carries one `Exchange` at a time; body bytes
go `data_received -> Exchange.on_data` in one call, already free of chunked framing.
"""

import asyncio
import ssl
from itertools import islice
from typing import cast
from urllib.parse import urlsplit

import httptools

from backends.fleet import Replica
from gateway.chunks import NOTABLE, Chunks, Way
from gateway.exchange import Exchange, Head, UpstreamLost

MAX_HEAD_BYTES = 64 * 1024
MOST_AT_ONCE = 64  # idle connections closed in one turn of the loop: streams do not wait
PAUSE_S = 0.01
NOTHING = (b"", b"")


class Connection(asyncio.Protocol):
    """One socket to a replica."""

    def __init__(self, pool: "OriginPool", chunks: Chunks) -> None:
        self._pool = pool
        self._chunks = chunks
        self._came = chunks.came
        self._way: Way | None = None
        self._transport: asyncio.Transport | None = None
        self._exchange: Exchange | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._headers: dict[bytes, bytes] = {}
        self._body: list[bytes] = []
        self._last = NOTHING  # a piece of a body and the bytes it was in, until its way is known
        self._head_bytes = 0
        self._complete = False
        self._keeps_alive = False
        self._paused = False
        self._reused = False
        self._why = "the replica closed the connection"
        self.idle_since = 0.0
        self.loop = asyncio.get_running_loop()

    @property
    def is_open(self) -> bool:
        """Whether a request can still be written."""
        return self._transport is not None and not self._transport.is_closing()

    def start(self, head: bytes, body: bytes, loop: asyncio.AbstractEventLoop) -> Exchange:
        """Write a request; the connection belongs to the exchange until that is done."""
        if self._transport is None:
            raise UpstreamLost(self._why, reused=self._reused)
        self._exchange = exchange = Exchange(self, loop)
        self._headers, self._head_bytes, self._complete = {}, 0, False
        self._transport.writelines((head, body))  # one system call, and no copy of a long body
        return exchange

    def lead(self, way: Way | None) -> None:
        """Let plain chunks go this way; None: no more of them, also of those that have come."""
        if self._way is not None:
            self._way.end = b""
        if way is not None:
            way.look(*self._last)
        self._way, self._last = way, NOTHING

    def pause(self) -> None:
        """Stop reading."""
        if self._transport is not None and not self._paused:
            self._paused = True
            self._transport.pause_reading()

    def resume(self) -> None:
        """Read again."""
        if self._transport is not None and self._paused:
            self._paused = False
            self._transport.resume_reading()

    def close(self, why: str) -> None:
        """End the connection, and with an error the exchange on it."""
        self._why = why
        if self._transport is not None:
            self._transport.abort()
        self._lose()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Asyncio: the socket is open."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Asyncio: bytes have come."""
        way = self._way
        if way is None:
            self.take(data)
            return
        came = self._came
        came.append((way, data))
        if len(came) in NOTABLE:
            self._chunks.note(self.loop)

    def take(self, data: bytes) -> None:
        """Decode bytes and deliver what is in them."""
        exchange = self._exchange
        if exchange is None:
            return self.close("bytes that nobody asked for")
        if not exchange.head.done():
            self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            return self.close(f"the replica's answer is not HTTP: {error}")
        body = b""
        if pieces := self._body:
            body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
            pieces.clear()
            exchange.deliver(body)
        if self._way is not None:
            self._way.look(body, data)
        else:
            self._last = body, data
        if self._complete and self._exchange is exchange:
            self._finish(exchange)
        elif self._head_bytes > MAX_HEAD_BYTES and not exchange.head.done():
            self.close("the replica's headers are too large")
        return None

    def eof_received(self) -> bool:
        """Asyncio: the replica sends no more; that ends a body without a length."""
        self._chunks.pass_on(self.loop)
        exchange = self._exchange
        if exchange is not None and exchange.head.done() and not exchange.head.exception():
            headers = exchange.head.result().headers
            if b"content-length" not in headers and b"transfer-encoding" not in headers:
                self._exchange = None
                self.lead(None)
                exchange.end()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Asyncio: the socket is closed."""
        self._chunks.pass_on(self.loop)
        if exc is not None:
            self._why = f"the connection to the replica broke: {type(exc).__name__}"
        self._lose()

    def on_message_begin(self) -> None:
        """Httptools: an answer begins; a second one was not asked for."""
        if self._complete:
            self._keeps_alive = False

    def on_header(self, name: bytes, value: bytes) -> None:
        """Httptools: one header line."""
        self._headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        """Httptools: the head is complete (1xx heads are skipped)."""
        status = self._parser.get_status_code()
        if status >= 200 and self._exchange is not None and not self._exchange.head.done():
            self._exchange.head.set_result(Head(status, self._headers))

    def on_body(self, body: bytes) -> None:
        """Httptools: a piece of the body without its framing."""
        if not self._complete:
            self._body.append(body)

    def on_message_complete(self) -> None:
        """Httptools: the answer is complete."""
        if self._exchange is not None and self._exchange.head.done() and not self._complete:
            self._complete = True
            self._keeps_alive = self._parser.should_keep_alive()  # known in this callback only

    def fail(self, error: Exception) -> None:
        """End the connection because of a bug of ours."""
        told = {"message": "a chunk could not be passed on", "exception": error, "protocol": self}
        self.loop.call_exception_handler(told)
        self.close(f"a chunk could not be passed on: {type(error).__name__}")

    def _finish(self, exchange: Exchange) -> None:
        self._exchange = None
        self.lead(None)
        self.resume()
        if self._keeps_alive and self.is_open:
            self._reused = True
            self._pool.take_back(self)
        elif self._transport is not None:
            self._transport.close()
        exchange.end()

    def _lose(self) -> None:
        self._transport = None
        self.lead(None)
        self._parser = None  # type: ignore[assignment]  # never fed again; it refers to this
        self._pool.forget(self)
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.end(UpstreamLost(self._why, reused=self._reused))


class OriginPool:
    """The connections to one replica. Idle ones are closed before the replica would do so."""

    def __init__(self, url: str, chunks: Chunks, *, idle_s: float, at_most: int) -> None:
        self._chunks = chunks
        parts = urlsplit(url)
        self._host = parts.hostname or "127.0.0.1"
        self._port = parts.port or (443 if parts.scheme == "https" else 80)
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._prefix = parts.path.rstrip("/")
        self._idle_s = idle_s
        self._at_most = at_most
        self._idle: dict[Connection, None] = {}  # the longest idle first
        self._open: set[Connection] = set()
        self._sweep: asyncio.TimerHandle | None = None
        self.authority = f"{parts.hostname}:{self._port}".encode()

    @property
    def open_count(self) -> int:
        """Connections that are open now, idle ones included."""
        return len(self._open)

    @property
    def idle_count(self) -> int:
        """Connections that wait for a request."""
        return len(self._idle)

    async def request(
        self, method: bytes, path: str, headers: bytes, body: bytes, *, connect_s: float
    ) -> Exchange:
        """Send a request; `headers` are whole lines. Raises UpstreamLost or TimeoutError."""
        loop = asyncio.get_running_loop()
        connection = self._reuse(loop.time()) or await self._connect(loop, connect_s)
        head = b"%b %b%b HTTP/1.1\r\nhost: %b\r\ncontent-length: %d\r\n%b\r\n" % (
            method,
            self._prefix.encode(),
            path.encode(),
            self.authority,
            len(body),
            headers,
        )
        return connection.start(head, body, loop)

    def take_back(self, connection: Connection) -> None:
        """Keep a connection for the next request."""
        connection.idle_since = connection.loop.time()
        self._idle[connection] = None
        if self._sweep is None:
            loop = connection.loop
            self._sweep = loop.call_later(self._idle_s, self._drop_idle, loop)

    def forget(self, connection: Connection) -> None:
        """Drop a connection that is closed."""
        self._open.discard(connection)
        self._idle.pop(connection, None)

    def close(self) -> None:
        """Close every connection; exchanges on them end with an error."""
        if self._sweep is not None:
            self._sweep.cancel()
        for connection in tuple(self._open):
            connection.close("the gateway is closing")

    def _reuse(self, now: float) -> Connection | None:
        while self._idle:
            connection, _ = self._idle.popitem()
            if connection.is_open and now - connection.idle_since < self._idle_s:
                return connection
            connection.close("idle")
        return None

    async def _connect(self, loop: asyncio.AbstractEventLoop, connect_s: float) -> Connection:
        if len(self._open) >= self._at_most:
            raise UpstreamLost("too many connections to the replica")
        try:
            async with asyncio.timeout(connect_s):
                _, connection = await loop.create_connection(
                    lambda: Connection(self, self._chunks), self._host, self._port, ssl=self._tls
                )
        except OSError as error:
            raise UpstreamLost(f"no connection to the replica: {type(error).__name__}") from error
        self._open.add(connection)
        return connection

    def _drop_idle(self, loop: asyncio.AbstractEventLoop) -> None:
        self._sweep = None
        oldest = loop.time() - self._idle_s
        for connection in [c for c in islice(self._idle, MOST_AT_ONCE) if c.idle_since <= oldest]:
            connection.close("idle")
        if self._idle:
            due = next(iter(self._idle)).idle_since + self._idle_s
            self._sweep = loop.call_at(max(due, loop.time() + PAUSE_S), self._drop_idle, loop)


class Upstreams:
    """The pools of all replicas."""

    def __init__(self, *, idle_s: float = 4.0, at_most: int = 4096) -> None:
        self._idle_s = idle_s
        self._at_most = at_most
        self._pools: dict[str, OriginPool] = {}
        self._chunks = Chunks()

    def of(self, replica: Replica) -> OriginPool:
        """The pool of a replica, made when first asked for."""
        pool = self._pools.get(replica.url)
        if pool is None:
            pool = OriginPool(replica.url, self._chunks, idle_s=self._idle_s, at_most=self._at_most)
            self._pools[replica.url] = pool
        return pool

    def keep_only(self, urls: set[str]) -> None:
        """Drop the idle pools of replicas that are gone."""
        for url in [u for u, p in self._pools.items() if u not in urls]:
            if self._pools[url].open_count == self._pools[url].idle_count:
                self._pools.pop(url).close()

    @property
    def open_count(self) -> int:
        """Connections to all replicas."""
        return sum(pool.open_count for pool in self._pools.values())

    def close(self) -> None:
        """Close every connection."""
        for pool in self._pools.values():
            pool.close()
