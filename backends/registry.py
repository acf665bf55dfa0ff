"""Which replicas are there? Leases, adoptions and configuration become one snapshot in memory.

A lease that ends takes its replica out. While the store is away nothing ends: the last snapshot
stays, and for the length of one lease after the store is back a replica that has not renewed yet
(or whose record the store has lost) stays too.
"""

import asyncio
import hashlib
import logging
import random
import re
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from urllib.parse import urlsplit

from redis.asyncio import Redis
from redis.exceptions import RedisError

from backends import records
from backends.clock import Clock, SystemClock
from backends.fleet import Fleet, Health, HealthState, Load, Pool, Replica, Standing
from backends.held_leases import Leases, union
from backends.records import Mark, MarkKind, Record

_LOADS_SETTLE_S = 0.05  # a snapshot that only differs in load waits for more of the kind

_log = logging.getLogger(__name__)


def replica_id(model: str, url: str) -> str:
    """Derive the id of a replica that is named by URL: readable, and the same in every process."""
    host = re.sub(r"[^a-z0-9]+", "-", urlsplit(url).netloc.lower()).strip("-")
    digest = hashlib.sha256(f"{model}\0{url.rstrip('/')}".encode()).hexdigest()
    return f"{host[:48]}-{digest[:8]}"


class Registry:
    """The fleet as one gateway process sees it.

    Sources, the later wins where two name the same id, or the same model at the same URL:
    `configured`, adoptions at run time, leases. The store is read again every `poll_s`.
    """

    def __init__(
        self,
        store: Redis,
        *,
        configured: Sequence[Replica] = (),
        poll_s: float = 0.5,
        clock: Clock | None = None,
    ) -> None:
        self._store = store
        self._configured = {replica.id: Record(replica) for replica in configured}
        self._poll_s = poll_s
        self._clock = clock or SystemClock()
        self._store_ok = True
        self._reading = asyncio.Lock()
        self._leases = Leases()
        self._members: Mapping[str, Replica] = {}
        self._draining: Mapping[str, Health] = {}
        self._found: dict[str, tuple[Health, Load | None]] = {}
        self._fleet = Fleet(at=self._clock.now())
        self._stale = False  # the snapshot is behind in a matter of routing
        self._untold = False  # who waits for a change has not been told of one
        self._swap_due: asyncio.Handle | None = None
        self._next: asyncio.Future[None] | None = None
        self._callbacks: list[Callable[[], None]] = []
        self._take_in(union(self._configured), {}, {})

    def configure(self, replicas: Sequence[Replica]) -> None:
        """Take these as the configured ones from the next look at the store on."""
        self._configured = {replica.id: Record(replica) for replica in replicas}

    @property
    def fleet(self) -> Fleet:
        """The newest snapshot; read it afresh for each call."""
        if self._stale:
            self._rebuild()
        return self._fleet

    @property
    def store_ok(self) -> bool:
        """Whether the store answered when last asked."""
        return self._store_ok

    async def run(self) -> None:
        """Keep the snapshot fresh for ever; copes with a store that is away."""
        while True:
            try:
                await self.refresh()
            except RedisError:
                pass  # told by `store_ok`, logged when it changed
            await self._clock.sleep(self._poll_s * random.uniform(0.9, 1.1))

    async def refresh(self) -> None:
        """Read the store now; raises RedisError and keeps the snapshot if it does not answer."""
        async with self._reading:
            try:
                listing = await records.read(self._store)
            except RedisError as error:
                if self._store_ok:
                    _log.warning("the store does not answer; the last snapshot stays: %s", error)
                self._store_ok = False
                raise
            if not self._store_ok:
                _log.info("the store answers again")
                self._leases.store_returned(listing.now)
            self._store_ok = True
            leased = self._leases.take(listing)
            everyone = union(self._configured, listing.adopted, leased)
            self._take_in(everyone, listing.marks, leased)

    async def changed(self) -> None:
        """Return at the next change of members or of their health's state (not of load).

        Nothing is missed if the snapshot is read and this is called without an await in between.
        """
        if self._next is None:
            self._next = asyncio.get_running_loop().create_future()
        await asyncio.shield(self._next)

    def on_change(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call back at each such change; gives the function that ends it."""
        self._callbacks.append(callback)
        return lambda: self._callbacks.remove(callback)

    def publish(self, replica_id: str, health: Health, load: Load | None) -> None:
        """Take in what the probes found; unknown ids are ignored."""
        if replica_id not in self._members:
            return
        before = self._found.get(replica_id)
        self._found[replica_id] = (health, load)
        if before is None or before[0].state is not health.state:
            self._stale = self._untold = True
            self._swap_soon(0.0)
        else:
            self._swap_soon(_LOADS_SETTLE_S)

    async def adopt(self, replica: Replica) -> None:
        """Take in a replica by URL until it is removed; ends a mark. Raises RedisError."""
        async with self._store.pipeline(transaction=True) as pipe:
            pipe.hset(records.ADOPTED, replica.id, records.encode(Record(replica)))
            pipe.hdel(records.MARKS, replica.id)
            await pipe.execute()
        await self.refresh()

    async def drain(self, replica_id: str) -> bool:
        """Let a replica finish and give it nothing new; False if unknown. Raises RedisError."""
        await self.refresh()
        if replica_id not in self._members:
            return False
        await self._mark(replica_id, MarkKind.DRAINING)
        return True

    async def resume(self, replica_id: str) -> bool:
        """End what `drain` or `remove` said; False if nothing was. Raises RedisError."""
        ended = await self._store.hdel(records.MARKS, replica_id)
        await self.refresh()
        return bool(ended)

    async def remove(self, replica_id: str) -> bool:
        """Forget a replica; False if unknown. Raises RedisError.

        A leased one is told by its next heartbeat and leaves by itself; a configured one stays out
        until it is resumed or adopted again.
        """
        await self.refresh()
        if replica_id not in self._members:
            return False
        await self._store.hdel(records.ADOPTED, replica_id)
        if replica_id in self._configured or self._leases.holds(replica_id):
            await self._mark(replica_id, MarkKind.REMOVED)
        else:
            await self._store.hdel(records.MARKS, replica_id)
            await self.refresh()
        return True

    async def _mark(self, replica_id: str, kind: MarkKind) -> None:
        mark = records.encode_mark(Mark(kind, self._clock.now()))
        await self._store.hset(records.MARKS, replica_id, mark)
        await self.refresh()

    def _take_in(
        self,
        everyone: Mapping[str, Record],
        marks: Mapping[str, Mark],
        leased: Mapping[str, Record],
    ) -> None:
        kinds = {id_: mark.kind for id_, mark in marks.items()}
        members = {
            id_: record.replica
            for id_, record in everyone.items()
            if kinds.get(id_) is not MarkKind.REMOVED
        }
        draining: dict[str, Health] = {}
        for id_ in members:
            if kinds.get(id_) is MarkKind.DRAINING:
                since_at, why = marks[id_].at, "an operator drains it"
            elif id_ in leased and leased[id_].draining:
                since_at, why = self._clock.now(), "its process drains"
            else:
                continue
            known = self._draining.get(id_)
            same = known is not None and known.reason == why
            draining[id_] = known if same and known else Health(HealthState.DRAINING, since_at, why)
        if members != self._members or draining != self._draining:
            self._members, self._draining = members, draining
            self._found = {id_: each for id_, each in self._found.items() if id_ in members}
            self._untold = True
            self._swap()

    def _swap_soon(self, delay_s: float) -> None:
        if self._swap_due is not None and delay_s > 0.0:
            return
        if self._swap_due is not None:
            self._swap_due.cancel()
        loop = asyncio.get_running_loop()
        self._swap_due = loop.call_later(delay_s, self._swap)

    def _swap(self) -> None:
        """Make the snapshot anew and tell who waits for a change."""
        if self._swap_due is not None:
            self._swap_due.cancel()
        self._swap_due = None
        self._rebuild()
        told, self._untold = self._untold, False
        if not told:
            return
        waiting, self._next = self._next, None
        if waiting is not None and not waiting.done():
            waiting.set_result(None)
        for callback in tuple(self._callbacks):
            callback()

    def _rebuild(self) -> None:
        pools: dict[str, list[Standing]] = {}
        for id_, replica in sorted(self._members.items()):
            health, load = self._found.get(id_, (Health(), None))
            health = self._draining.get(id_, health)
            pools.setdefault(replica.model, []).append(Standing(replica, health, load))
        built = {model: Pool(model, tuple(each)) for model, each in pools.items()}
        self._fleet = Fleet(MappingProxyType(built), self._clock.now())
        self._stale = False
