"""How do a gateway's processes speak with the one that watches them? Over a socket pair each.

A message is its length, one byte that says what it is, and its content. End of file means that the
other side is gone, however it ended.
"""

import asyncio
import copyreg
import io
import pickle
import socket
import struct
from collections.abc import Callable, Mapping
from enum import Enum
from types import MappingProxyType
from typing import Protocol

from gateway.settings import Settings

_HEAD = struct.Struct("!IB")
MAX_BYTES = 64 * 1024 * 1024
TELL_EVERY_S = 2.0  # so old may be what is known of a process that is killed
ANSWER_S = 2.0


class Kind(Enum):
    """What a message is."""

    SETTINGS = 1  # to a worker, once: what it serves with
    READY = 2  # from a worker: it serves
    METRICS = 3  # from a worker: all that it has counted
    TELL = 4  # to a worker: send METRICS now
    GATHER = 5  # from a worker: what have all counted?
    GATHERED = 6  # to a worker: the answer
    REREAD = 7  # from a worker: what do the settings say now? Answered by SETTINGS or FAULT
    FAULT = 8  # to a worker: why they cannot be read


class Channel:
    """One end of the socket pair."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def over(cls, end: socket.socket) -> "Channel":
        """Speak over one end of a pair, which is the channel's from now on."""
        end.setblocking(False)
        return cls(*await asyncio.open_unix_connection(sock=end, limit=MAX_BYTES))

    def send(self, kind: Kind, content: bytes = b"") -> None:
        """Send a message; to nobody if the other side is gone."""
        if not self._writer.is_closing():
            self._writer.write(_HEAD.pack(len(content), kind.value) + content)

    async def receive(self) -> tuple[Kind, bytes] | None:
        """Give the next message; None when the other side is gone."""
        try:
            size, kind = _HEAD.unpack(await self._reader.readexactly(_HEAD.size))
            return Kind(kind), await self._reader.readexactly(size)
        except (asyncio.IncompleteReadError, ConnectionError):
            return None

    def close(self) -> None:
        """Close it."""
        self._writer.close()


class Gather(Protocol):
    """Gives the metrics of all processes together, from those of the one that is asked."""

    async def __call__(self, own: bytes) -> bytes:
        """Give the text."""
        ...


class WorkerEnd:
    """A worker's side: tells what it counts, asks what all have counted, hears the end."""

    def __init__(
        self, channel: Channel, count: Callable[[], bytes], stop: Callable[[], None]
    ) -> None:
        self._channel = channel
        self._count = count
        self._stop = stop
        self._gathered: asyncio.Future[bytes] | None = None
        self._reread: asyncio.Future[tuple[Kind, bytes]] | None = None

    async def run(self) -> None:
        """Tell and hear until the watching process is gone; then `stop`."""
        telling = asyncio.create_task(self._tell())
        try:
            while (message := await self._channel.receive()) is not None:
                self._hear(*message)
        finally:
            telling.cancel()
        self._stop()

    async def gather(self, own: bytes) -> bytes:
        """Give the metrics of all processes; only our own where nobody answers in time."""
        self._channel.send(Kind.METRICS, own)
        if self._gathered is None:
            self._gathered = asyncio.get_running_loop().create_future()
            self._channel.send(Kind.GATHER)
        waiting = self._gathered
        try:
            async with asyncio.timeout(2 * ANSWER_S):
                return await asyncio.shield(waiting)
        except TimeoutError:
            self._gathered = None
            return own

    async def reread(self) -> tuple[Kind, bytes]:
        """Have the settings read again; gives SETTINGS or FAULT. One at a time."""
        self._reread = asyncio.get_running_loop().create_future()
        self._channel.send(Kind.REREAD)
        return await self._reread

    def _hear(self, kind: Kind, content: bytes) -> None:
        if kind is Kind.TELL:
            self._channel.send(Kind.METRICS, self._count())
        elif kind is Kind.GATHERED:
            gathered, self._gathered = self._gathered, None
            if gathered is not None and not gathered.done():
                gathered.set_result(content)
        elif self._reread is not None and not self._reread.done():
            self._reread.set_result((kind, content))

    async def _tell(self) -> None:
        while True:
            self._channel.send(Kind.METRICS, self._count())
            await asyncio.sleep(TELL_EVERY_S)


def pack(settings: Settings, redis_url: str) -> bytes:
    """Give the content of SETTINGS: what a worker serves with, and the address of its store."""
    out = io.BytesIO()
    pickler = pickle.Pickler(out)
    # Mappings of settings are read-only, in a type that pickle does not know.
    pickler.dispatch_table = copyreg.dispatch_table | {
        MappingProxyType: lambda mapping: (_read_only, (dict(mapping),))
    }
    pickler.dump((settings, redis_url))
    return out.getvalue()


def unpack(content: bytes) -> tuple[Settings, str]:
    """Read what `pack` gave."""
    found: tuple[Settings, str] = pickle.loads(content)  # noqa: S301 from our own parent
    return found


def _read_only(mapping: dict[str, object]) -> Mapping[str, object]:
    return MappingProxyType(mapping)
