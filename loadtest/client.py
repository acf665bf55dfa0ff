"""How does one process hold thousands of streams at little cost, and time them?

Each connection is a raw non-blocking socket with one persistent read watcher on gevent's loop: a
read is one callback in the hub, without a switch to a greenlet. Greenlets run only to connect and
to finish a write that did not fit.
"""

from __future__ import annotations

import errno
import os
import socket
import time
from collections.abc import Callable
from typing import Any

import gevent
from gevent import monkey
from gevent.socket import wait_write

from loadtest.http1 import MalformedResponse, Response
from loadtest.target import Target
from loadtest.wires import AGAIN, Encrypted, Plain, Wire

_READ = 1
_raw_socket: Any = monkey.get_original("socket", "socket")

Ended = Callable[["Response", str], None]


class Connection:
    """One socket: carries one exchange at a time, then returns to its client's idle list."""

    __slots__ = (
        "_client",
        "_ended",
        "_response",
        "_sock",
        "_watcher",
        "_wire",
        "deadline_ns",
        "fresh",
    )

    def __init__(self, client: Client) -> None:
        self._client = client
        self._sock: Any = None
        self._wire: Wire | None = None
        self._watcher: Any = None
        self._response: Response | None = None
        self._ended: Ended | None = None
        self.deadline_ns = 0
        self.fresh = True

    def open(self, timeout_s: float) -> None:
        """Connect (in a greenlet). Raises OSError."""
        target = self._client.target
        sock = _raw_socket(target.family, socket.SOCK_STREAM)
        self._sock = sock
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        code = sock.connect_ex(target.address)
        if code not in (0, errno.EINPROGRESS):
            raise OSError(code, os.strerror(code))
        wait_write(sock.fileno(), timeout=timeout_s, timeout_exc=TimeoutError("connect"))
        code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            raise OSError(code, os.strerror(code))
        if target.tls is None:
            self._wire = Plain(sock)
        else:
            wire = Encrypted(sock, target.tls, target.host)
            wire.handshake(time.monotonic() + timeout_s)
            self._wire = wire
        self._watcher = gevent.get_hub().loop.io(sock.fileno(), _READ)
        self._watcher.start(self._readable)

    def begin(self, request: bytes, response: Response, ended: Ended, deadline_ns: int) -> None:
        """Send a request; `ended(response, error)` is called once, from the hub, at its end."""
        self._response = response
        self._ended = ended
        self.deadline_ns = deadline_ns
        assert self._wire is not None  # noqa: S101  begin comes after open
        try:
            sent = self._wire.send(request)
        except OSError as error:
            if error.errno not in AGAIN:
                self.fail(str(error))
                return
            sent = 0
        if sent < len(request):
            gevent.spawn(self._send_rest, request[sent:])

    def _send_rest(self, rest: bytes) -> None:
        try:
            while rest and self._wire is not None:
                wait_write(self._sock.fileno())
                rest = rest[self._wire.send(rest) :]
        except OSError as error:
            self.fail(str(error))

    def _readable(self) -> None:
        """Take what has arrived: called by the loop, never blocks."""
        wire, response = self._wire, self._response
        if wire is None:
            return
        try:
            data = wire.receive()
        except OSError as error:
            self.fail(str(error) or type(error).__name__)
            return
        if data is None:
            return
        if response is None:  # an idle connection: the server closed it, or talks out of turn
            self._client.drop(self)
            return
        now_ns = time.monotonic_ns()
        try:
            complete = response.feed(data, now_ns) if data else response.closed(now_ns)
        except MalformedResponse as error:
            self.fail(str(error))
            return
        if complete:
            self._finish(response)
        elif not data:
            self.fail("closed early" if response.status else "closed before the response")

    def _finish(self, response: Response) -> None:
        ended, self._ended, self._response = self._ended, None, None
        self.fresh = False
        self._client.settle(self, reusable=response.reusable)
        if ended is not None:
            ended(response, "")

    def fail(self, why: str) -> None:
        """End the exchange with an error and close."""
        ended, self._ended = self._ended, None
        response, self._response = self._response, None
        self._client.drop(self)
        if ended is not None and response is not None:
            ended(response, why)

    @property
    def untouched(self) -> bool:
        """Tell whether nothing of a response has arrived."""
        return self._response is not None and self._response.status == 0

    def close(self) -> None:
        """Close the socket; safe to call twice."""
        if self._watcher is not None:
            self._watcher.stop()
            self._watcher.close()
            self._watcher = None
        if self._sock is not None:
            self._sock.close()
            self._sock = None
        self._wire = None


class Client:
    """Connections to one target: idle ones are reused, last used first."""

    def __init__(self, target: Target, *, connect_timeout_s: float = 10.0) -> None:
        self.target = target
        self._connect_timeout_s = connect_timeout_s
        self._idle: list[Connection] = []
        self._busy: set[Connection] = set()
        self.connects = 0

    def __len__(self) -> int:
        return len(self._busy)

    def start(self, request: bytes, response: Response, ended: Ended, *, timeout_s: float) -> None:
        """Send a request on an idle connection, or connect first in a greenlet; returns at once.

        A reused connection that the server closes before answering is replaced once.
        """
        deadline_ns = time.monotonic_ns() + int(timeout_s * 1e9)
        if not self._idle:
            gevent.spawn(self._connect, request, response, ended, deadline_ns)
            return
        connection = self._idle.pop()
        self._busy.add(connection)

        def ended_once(got: Response, error: str) -> None:
            if error and got.status == 0 and time.monotonic_ns() < deadline_ns:
                gevent.spawn(self._connect, request, response, ended, deadline_ns)
            else:
                ended(got, error)

        connection.begin(request, response, ended_once, deadline_ns)

    def _connect(self, request: bytes, response: Response, ended: Ended, deadline_ns: int) -> None:
        connection = Connection(self)
        self._busy.add(connection)
        self.connects += 1
        left_s = max(0.001, (deadline_ns - time.monotonic_ns()) / 1e9)
        try:
            connection.open(min(self._connect_timeout_s, left_s))
        except OSError as error:
            self.drop(connection)
            ended(response, f"connect: {error}")
            return
        connection.begin(request, response, ended, deadline_ns)

    def warm(self, count: int) -> int:
        """Open `count` idle connections ahead of the run; tell how many stand."""
        jobs = [gevent.spawn(self._warm_one) for _ in range(count)]
        gevent.joinall(jobs)
        return len(self._idle)

    def _warm_one(self) -> None:
        connection = Connection(self)
        try:
            connection.open(self._connect_timeout_s)
        except OSError:
            connection.close()
            return
        self.connects += 1
        self._idle.append(connection)

    def settle(self, connection: Connection, *, reusable: bool) -> None:
        """Take a connection back after its exchange."""
        self._busy.discard(connection)
        if reusable:
            self._idle.append(connection)
        else:
            connection.close()

    def drop(self, connection: Connection) -> None:
        """Forget a connection and close it."""
        self._busy.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)
        connection.close()

    def sweep(self, now_ns: int) -> int:
        """Fail every exchange whose deadline has passed; tell how many."""
        late = [one for one in self._busy if 0 < one.deadline_ns < now_ns]
        for connection in late:
            connection.fail("timed out")
        return len(late)

    def close(self, why: str = "interrupted") -> None:
        """End every exchange with `why` and close all connections."""
        for connection in list(self._busy):
            connection.fail(why)
        for connection in self._idle:
            connection.close()
        self._idle.clear()
