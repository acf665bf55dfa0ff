"""How does a replica's process say that it is there, and that it leaves?"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Sequence

from redis.asyncio import Redis
from redis.exceptions import RedisError

from backends import records
from backends.clock import Clock, SystemClock
from backends.fleet import Replica
from backends.records import MarkKind, Record

LEASE_S = 6.0

_log = logging.getLogger(__name__)


class Lease:
    """The places in the registry of the replicas of one process, renewed three times per lease.

    `all_removed` is set when an operator has removed every one of them.
    """

    def __init__(
        self,
        store: Redis,
        replicas: Sequence[Replica],
        *,
        lease_s: float = LEASE_S,
        clock: Clock | None = None,
    ) -> None:
        self.all_removed = asyncio.Event()
        self._store = store
        self._replicas = {replica.id: replica for replica in replicas}
        self._lease_s = lease_s
        self._registered = False
        self._draining = False
        self._clock = clock or SystemClock()
        self._renew = store.register_script(records.RENEW)

    async def renew(self) -> None:
        """Take the places, or send one heartbeat; raises RedisError.

        Taking them ends what an operator said of earlier holders.
        """
        if not self._replicas:
            return
        if not self._registered:
            await self._store.hdel(records.MARKS, *self._replicas)
        args: list[bytes | str | float] = [self._lease_s]
        for id_, replica in self._replicas.items():
            args += (id_, records.encode(Record(replica, self._lease_s, self._draining)))
        marks = await self._renew(keys=records.RENEW_KEYS, args=args)
        self._registered = True
        for id_, raw in zip(tuple(self._replicas), marks, strict=True):
            mark = records.decode_mark(raw) if raw else None
            if mark is not None and mark.kind is MarkKind.REMOVED:
                _log.info("replica %s was removed by an operator", id_)
                await self._forget(id_)
                del self._replicas[id_]
        if not self._replicas:
            self.all_removed.set()

    async def run(self) -> None:
        """Send heartbeats for ever; copes with a store that is away."""
        ok = True
        while True:
            try:
                await self.renew()
            except RedisError as error:
                if ok:
                    _log.warning("the lease was not renewed; trying again: %s", error)
                ok = False
                await self._clock.sleep(min(1.0, self._lease_s / 6))
            else:
                ok = True
                await self._clock.sleep(self._lease_s / 3)

    async def drain(self) -> None:
        """Ask for nothing new; raises RedisError (the next heartbeat says it then)."""
        self._draining = True
        await self.renew()

    async def leave(self) -> None:
        """Give the places up; raises RedisError (they end with the lease then)."""
        for id_ in self._replicas:
            await self._forget(id_)

    async def _forget(self, replica_id: str) -> None:
        async with self._store.pipeline(transaction=True) as pipe:
            pipe.zrem(records.LEASES, replica_id)
            pipe.hdel(records.REPLICAS, replica_id)
            pipe.hdel(records.MARKS, replica_id)
            await pipe.execute()


@contextlib.asynccontextmanager
async def leased(
    store: Redis, replicas: Sequence[Replica], *, lease_s: float = LEASE_S
) -> AsyncIterator[Lease]:
    """Hold places in the registry; given up on leaving. Copes with a store that is away."""
    lease = Lease(store, replicas, lease_s=lease_s)
    try:
        await lease.renew()
    except RedisError as error:
        _log.warning("the registry is not reachable yet: %s", error)
    heartbeats = asyncio.create_task(lease.run(), name="lease")
    try:
        yield lease
    finally:
        heartbeats.cancel()
        await asyncio.wait([heartbeats])
        with contextlib.suppress(RedisError):
            await lease.leave()
