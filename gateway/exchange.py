"""What is one request to a replica and its answer, whoever carries them?"""

import asyncio
from collections.abc import Callable
from typing import Protocol

from msgspec import Struct

from gateway.call import Receipt
from gateway.chunks import Source, Way
from gateway.wire.dialect import StreamEditor


class Carrier(Source, Protocol):
    """The connection that an exchange is on."""

    def lead(self, way: Way | None) -> None:
        """Let plain chunks go this way; None: none of them any more."""
        ...

    def pause(self) -> None:
        """Take no more bytes."""
        ...

    def resume(self) -> None:
        """Take bytes again."""
        ...

    def close(self, why: str) -> None:
        """End the connection, and with an error the exchange on it."""
        ...


class UpstreamLost(ConnectionError):
    """The connection ended before the answer did; `reused` if it had idled in the pool before.

    `blames_replica` False: the caller or our own limit ended it, which says nothing of its health.
    """

    def __init__(self, why: str, *, reused: bool = False, blames_replica: bool = True) -> None:
        super().__init__(why)
        self.reused = reused
        self.blames_replica = blames_replica


class Head(Struct, frozen=True):
    """Status and headers (lower-case names) of an answer."""

    status: int
    headers: dict[bytes, bytes]

    @property
    def is_stream(self) -> bool:
        """Whether the body is a stream of server-sent events."""
        return self.headers.get(b"content-type", b"").startswith(b"text/event-stream")


class Exchange:
    """One request in flight. Await `head`, then `attach` a callback or `read` the whole body.

    Both futures raise UpstreamLost where the connection ends first, and TimeoutError at the
    instant given to `expire_at`: one timer per exchange, where a time-out around each `await` costs
    six times as much.
    """

    __slots__ = (
        "_connection",
        "_kept",
        "_on_data",
        "_timer",
        "done",
        "head",
        "is_paused",
        "outlet",
    )

    def __init__(self, connection: Carrier, loop: asyncio.AbstractEventLoop) -> None:
        self._connection: Carrier | None = connection
        self._kept: list[bytes] = []
        self._on_data: Callable[[bytes], None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self.is_paused = False
        self.outlet: asyncio.WriteTransport | None = None
        self.head: asyncio.Future[Head] = loop.create_future()
        self.done: asyncio.Future[None] = loop.create_future()

    @property
    def is_open(self) -> bool:
        """Whether the replica may still say something."""
        return self._connection is not None

    def expire_at(self, when: float | None, loop: asyncio.AbstractEventLoop) -> None:
        """Let what is awaited raise TimeoutError at this instant of the loop; None: never."""
        if self.done.done():
            return  # its timer ended with it
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if when is not None:
            self._timer = loop.call_at(when, self._fail, TimeoutError())

    def attach(self, on_data: Callable[[bytes], None]) -> None:
        """Call `on_data` with each piece of the body from now on, first with what has come."""
        if self.is_open:
            self._on_data = on_data
        kept, self._kept = self._kept, []
        if kept:
            on_data(b"".join(kept))

    def lead(self, editor: StreamEditor, receipt: Receipt) -> None:
        """Let plain chunks go straight to the outlet, past `on_data`, where there is one."""
        if self._connection is not None and self.outlet is not None:
            self._connection.lead(Way(self._connection, self.outlet.write, editor, receipt))

    def stop_leading(self) -> None:
        """Let all that comes from now on go to `on_data` again."""
        if self._connection is not None:
            self._connection.lead(None)

    async def read(self, at_most_bytes: int) -> bytes:
        """Give the whole body; raises UpstreamLost if it breaks off or is larger."""
        if self.done.done() and len(self._kept) == 1:  # head and body came together
            self.done.result()
            return self._kept[0]
        size = sum(map(len, self._kept))

        def take(data: bytes) -> None:
            nonlocal size
            size += len(data)
            self._kept.append(data)
            if size > at_most_bytes:
                self.abort("the answer is too large")

        if self.is_open:
            self._on_data = take
        await self.done
        return b"".join(self._kept)

    def pause_reading(self) -> None:
        """Take no more bytes from this replica's socket."""
        self.is_paused = True
        if self._connection is not None:
            self._connection.pause()

    def resume_reading(self) -> None:
        """Take bytes again."""
        self.is_paused = False
        if self._connection is not None:
            self._connection.resume()

    def abort(self, why: str = "given up") -> None:
        """Close the connection at once: that tells the engine that nobody listens."""
        if self._connection is not None:
            self._connection.close(why)

    def let_end(self, loop: asyncio.AbstractEventLoop, within_s: float) -> None:
        """Ignore what still comes, so that the connection can be used again if it ends in time."""
        if self._connection is not None:
            self._on_data = _ignore
            self.resume_reading()
            loop.call_later(within_s, self.abort)

    def deliver(self, data: bytes) -> None:
        """Take a piece of the body from the connection."""
        if self._on_data is None:
            self._kept.append(data)
        else:
            self._on_data(data)

    def end(self, error: UpstreamLost | None = None) -> None:
        """Take the connection's last word; nothing is delivered after it."""
        self._connection = None
        self._on_data = (
            None  # it refers to who refers to this: the two would wait for the collector
        )
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if error is not None:
            self._fail(error)
        elif not self.done.done():
            self.done.set_result(None)

    def _fail(self, error: Exception) -> None:
        for future in (self.head, self.done):
            if not future.done():
                future.set_exception(error)
                future.exception()  # seen: not every owner waits for both


def _ignore(_: bytes) -> None:
    """Drop a piece of a body that nobody wants any more."""
