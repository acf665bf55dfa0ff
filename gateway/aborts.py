"""How does an engine learn that nobody waits for its answer any more?"""

import asyncio

from backends.fleet import Replica
from backends.sglang import ABORT_PATH, abort_body
from gateway.call import Call
from gateway.engine_requests import engine_headers
from gateway.exchange import Exchange, UpstreamLost
from gateway.upstream import Upstreams

ABORT_S = 10.0


class Aborts:
    """Ends attempts early; its length is how many engines are still being told."""

    def __init__(self, upstreams: Upstreams, *, connect_s: float) -> None:
        self._upstreams = upstreams
        self._connect_s = connect_s
        self._tasks: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._tasks)

    def stop(self, exchange: Exchange | None, replica: Replica, call: Call, rid: str) -> None:
        """Close an attempt's connection, where it is open, and have its rid aborted."""
        if exchange is None or not exchange.is_open:
            return
        exchange.abort()
        if call.takes_rid:
            task = asyncio.create_task(self._tell(replica, rid))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _tell(self, replica: Replica, rid: str) -> None:
        """Abort a rid on its engine, which by itself sees a caller leave only at a 4 s poll."""
        try:
            async with asyncio.timeout(ABORT_S):
                exchange = await self._upstreams.of(replica).request(
                    b"POST",
                    ABORT_PATH,
                    engine_headers(replica),
                    abort_body(rid),
                    connect_s=self._connect_s,
                )
                await exchange.done
        except (UpstreamLost, TimeoutError):
            return  # the closed connection has told it already; a dead engine needs no telling
