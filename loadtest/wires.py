"""How do bytes pass a non-blocking socket, with TLS and without?"""

from __future__ import annotations

import errno
import ssl
import time
from typing import Any, Protocol

from gevent.socket import wait_read, wait_write

AGAIN = (errno.EAGAIN, errno.EWOULDBLOCK)
_BUFFER_BYTES = 65536


class Wire(Protocol):
    """Bytes in and out of a connected socket; `receive` gives None when there is nothing to read
    yet.
    """

    def receive(self) -> bytes | None: ...

    def send(self, data: bytes) -> int: ...


class Plain:
    """An unencrypted wire."""

    __slots__ = ("_recv", "send")

    def __init__(self, sock: Any) -> None:
        self._recv = sock.recv
        self.send = sock.send

    def receive(self) -> bytes | None:
        try:
            data: bytes = self._recv(_BUFFER_BYTES)
        except OSError as error:
            if error.errno in AGAIN:
                return None
            raise
        return data


class Encrypted:
    """TLS over memory buffers, so that the socket stays non-blocking and raw."""

    def __init__(self, sock: Any, context: ssl.SSLContext, host: str) -> None:
        self._sock = sock
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._in, self._out, server_hostname=host)

    def handshake(self, deadline: float) -> None:
        """Complete the handshake in a greenlet. Raises OSError (ssl.SSLError is one)."""
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                self._flush()
                wait_read(self._sock.fileno(), timeout=max(0.001, deadline - time.monotonic()))
                self._pull()
                continue
            self._flush()
            return

    def _pull(self) -> None:
        try:
            data = self._sock.recv(_BUFFER_BYTES)
        except OSError as error:
            if error.errno in AGAIN:
                return
            raise
        if data:
            self._in.write(data)
        else:
            self._in.write_eof()

    def _flush(self) -> None:
        pending = self._out.read()
        while pending:
            try:
                pending = pending[self._sock.send(pending) :]
            except OSError as error:
                if error.errno not in AGAIN:
                    raise
                wait_write(self._sock.fileno())

    def receive(self) -> bytes | None:
        self._pull()
        plain = b""
        while True:
            try:
                piece = self._tls.read(_BUFFER_BYTES)
            except ssl.SSLWantReadError:
                return plain or None
            except (ssl.SSLEOFError, ssl.SSLZeroReturnError):
                return plain
            if not piece:
                return plain
            plain += piece

    def send(self, data: bytes) -> int:
        written = self._tls.write(data)
        self._flush()
        return written
