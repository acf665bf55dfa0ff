"""How is the store asked what every call asks of it, at little cost? On one socket, in turn.

redis-py takes a connection from its pool, arms two time-outs and goes through six coroutines for
each command: a quarter of all Python that a call needed. Here a command is packed, written, and its
future awaits the reply. redis-py makes the connection (address, TLS, password, database).
"""

import asyncio
from collections import deque
from typing import Any

import hiredis
from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError, ResponseError, TimeoutError

from backends.store import hand_over

Word = str | bytes | int | float

_NOTHING = object()  # what the reader gives while a reply is not whole


class Line:
    """The connection to the store; made when first used, and anew when it broke.

    Commands are answered in the order in which they were asked. A command whose connection breaks
    is sent once more on a new one, so it must be idempotent; one that waits for `answer_s` seconds
    fails with all others under way, and the connection is dropped.
    """

    def __init__(self, redis: Redis, *, answer_s: float) -> None:
        self._redis = redis
        self._answer_s = answer_s
        self._socket: _Socket | None = None
        self._connecting = asyncio.Lock()

    async def ask(self, *command: Word) -> Any:
        """Give the reply to a command. Raises redis.RedisError or OSError."""
        packed: bytes = hiredis.pack_command(command)  # type: ignore[arg-type]  # any number of words
        try:
            return await (self._open() or await self._connect()).send(packed)
        except ConnectionError:
            return await (self._open() or await self._connect()).send(packed)

    def close(self) -> None:
        """Drop the connection; who waits for a reply hears of it."""
        socket, self._socket = self._socket, None
        if socket is not None:
            socket.close(ConnectionError("The connection to the store is closed."))

    def _open(self) -> "_Socket | None":
        return None if self._socket is None or self._socket.ended else self._socket

    async def _connect(self) -> "_Socket":
        async with self._connecting:
            if (found := self._open()) is not None:
                return found
            connection = self._redis.connection_pool.make_connection()  # type: ignore[no-untyped-call]
            try:
                async with asyncio.timeout(self._answer_s):
                    await connection.connect()
            except BaseException:
                await connection.disconnect(nowait=True)
                raise
            self._socket = _Socket(connection, self._answer_s)
            return self._socket


class _Socket(asyncio.Protocol):
    """One socket to the store, and who waits for replies on it.

    Each is a protocol of its own: the end of a socket may be told late, when its successor is in
    use.
    """

    def __init__(self, connection: AbstractConnection, answer_s: float) -> None:
        self.ended = False
        self._answer_s = answer_s
        self._asked: deque[tuple[asyncio.Future[Any], float]] = deque()  # with its instant
        self._reader = _reader()
        self._watch: asyncio.TimerHandle | None = None
        self._writer = hand_over(connection, self)  # closes the socket when it is collected
        self._transport = self._writer.transport

    def send(self, packed: bytes) -> asyncio.Future[Any]:
        """Write a command; its reply is to come."""
        loop = asyncio.get_running_loop()
        reply: asyncio.Future[Any] = loop.create_future()
        if self.ended:  # it broke as soon as it was made
            reply.set_exception(_lost())
            return reply
        self._asked.append((reply, loop.time()))
        self._transport.write(packed)
        if self._watch is None:
            self._watch = loop.call_later(self._answer_s, self._expire)
        return reply

    def close(self, error: Exception) -> None:
        """Drop the socket at once; who waits for a reply is told the error."""
        self._transport.abort()
        self._end(error)

    def data_received(self, data: bytes) -> None:
        """Take in replies."""
        self._reader.feed(data)
        try:
            while (reply := self._reader.gets()) is not _NOTHING:
                self._take(reply)
        except hiredis.ProtocolError as error:
            self.close(ConnectionError(str(error)))

    def connection_lost(self, error: Exception | None) -> None:
        """Tell those who wait."""
        self._end(_lost())

    def _take(self, reply: Any) -> None:
        if isinstance(reply, hiredis.PushNotification) or self.ended:
            return
        asked, _ = self._asked.popleft()
        if asked.done():
            return  # who asked has left
        if isinstance(reply, Exception):
            asked.set_exception(reply)
        else:
            asked.set_result(reply)

    def _expire(self) -> None:
        """Give up on a store that is silent for too long; else look again when it would be."""
        self._watch = None
        if not self._asked:
            return
        loop = asyncio.get_running_loop()
        due = self._asked[0][1] + self._answer_s
        if due > loop.time():
            self._watch = loop.call_at(due, self._expire)
            return
        self.close(TimeoutError("The store does not answer."))

    def _end(self, error: Exception) -> None:
        self.ended = True
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        asked, self._asked = self._asked, deque()
        for each, _ in asked:
            if not each.done():
                each.set_exception(error)


def _lost() -> ConnectionError:
    return ConnectionError("The store closed the connection.")


def _reader() -> hiredis.Reader:
    return hiredis.Reader(
        protocolError=hiredis.ProtocolError, replyError=ResponseError, notEnoughData=_NOTHING
    )
