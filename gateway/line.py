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
from redis.exceptions import ConnectionError, ResponseError, TimeoutError

from backends.store import hand_over

Word = str | bytes | int | float

_NOTHING = object()  # what the reader gives while a reply is not whole


class Line(asyncio.Protocol):
    """One connection to the store; made when first used, and anew when it broke.

    Commands are answered in the order in which they were asked. A command whose connection breaks
    is sent once more on a new one, so it must be idempotent; one that waits for `answer_s` seconds
    fails with all others under way, and the connection is dropped.
    """

    def __init__(self, redis: Redis, *, answer_s: float) -> None:
        self._redis = redis
        self._answer_s = answer_s
        self._asked: deque[tuple[asyncio.Future[Any], float]] = deque()  # with its instant
        self._transport: asyncio.WriteTransport | None = None
        self._writer: asyncio.StreamWriter | None = None  # closes the socket when it is collected
        self._connecting = asyncio.Lock()
        self._reader = _reader()
        self._watch: asyncio.TimerHandle | None = None

    async def ask(self, *command: Word) -> Any:
        """Give the reply to a command. Raises redis.RedisError or OSError."""
        packed: bytes = hiredis.pack_command(command)  # type: ignore[arg-type]  # any number of words
        try:
            if self._transport is None:
                await self._connect()
            return await self._send(packed)
        except ConnectionError:
            if self._transport is None:
                await self._connect()
            return await self._send(packed)

    def close(self) -> None:
        """Drop the connection; who waits for a reply hears of it."""
        transport, self._transport = self._transport, None
        if transport is not None:
            transport.abort()
        self._fail(ConnectionError("The connection to the store is closed."))

    def _send(self, packed: bytes) -> asyncio.Future[Any]:
        loop = asyncio.get_running_loop()
        reply: asyncio.Future[Any] = loop.create_future()
        self._asked.append((reply, loop.time()))
        if self._transport is None:  # it broke as soon as it was made
            self._fail(ConnectionError("The store closed the connection."))
            return reply
        self._transport.write(packed)
        if self._watch is None:
            self._watch = loop.call_later(self._answer_s, self._expire)
        return reply

    async def _connect(self) -> None:
        async with self._connecting:
            if self._transport is None:
                self._reader = _reader()
                connection = self._redis.connection_pool.make_connection()  # type: ignore[no-untyped-call]
                try:
                    async with asyncio.timeout(self._answer_s):
                        await connection.connect()
                except BaseException:
                    await connection.disconnect(nowait=True)
                    raise
                self._writer = hand_over(connection, self)
                self._transport = self._writer.transport

    # asyncio.Protocol

    def data_received(self, data: bytes) -> None:
        """Take in replies."""
        self._reader.feed(data)
        try:
            while (reply := self._reader.gets()) is not _NOTHING:
                self._take(reply)
        except hiredis.ProtocolError as error:
            self.close()
            self._fail(ConnectionError(str(error)))

    def connection_lost(self, error: Exception | None) -> None:
        """Tell those who wait."""
        self._transport = None
        self._fail(ConnectionError("The store closed the connection."))

    def _take(self, reply: Any) -> None:
        if isinstance(reply, hiredis.PushNotification):
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
        self._fail(TimeoutError("The store does not answer."))
        self.close()

    def _fail(self, error: Exception) -> None:
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        asked, self._asked = self._asked, deque()
        for each, _ in asked:
            if not each.done():
                each.set_exception(error)


def _reader() -> hiredis.Reader:
    return hiredis.Reader(
        protocolError=hiredis.ProtocolError, replyError=ResponseError, notEnoughData=_NOTHING
    )
