"""Is the caller still there? Work for one who has left is ended at once."""

import asyncio

from starlette.types import Receive

from gateway.protocol import Turn


class Listening:
    """Cancels the current task when its caller leaves; `has_left` tells why it was cancelled."""

    def __init__(self, turn: Turn | None, receive: Receive) -> None:
        self.has_left = False
        self._turn = turn
        self._connection = None if turn is None else turn.connection
        self._receive = receive
        self._listener: asyncio.Task[None] | None = None
        self._task = asyncio.current_task()

    def __enter__(self) -> "Listening":
        if self._connection is None:
            self._listener = asyncio.create_task(self._listen())
        elif self._connection.transport.is_closing():
            self._leave()
        else:
            self._connection.on_lost = self._leave
        return self

    def __exit__(self, *_: object) -> None:
        if self._connection is not None:
            self._connection.on_lost = None
        if self._listener is not None:
            self._listener.cancel()
        self._task = None

    def _leave(self) -> None:
        self.has_left = True
        if self._turn is not None:
            self._turn.cycle.disconnected = True  # before uvicorn asks for the rest of the answer
        if self._task is not None:
            self._task.cancel()

    async def _listen(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._leave()
