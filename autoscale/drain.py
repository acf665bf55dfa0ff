"""How does a replica that runs elsewhere leave without dropping a stream?

Mark draining -> routing stops (gateways read the registry twice a second) -> nothing in flight, by
the gateways' own counts and the engine's -> end it (SIGTERM, its own grace) -> hard deadline.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from redis.asyncio import Redis
from redis.exceptions import RedisError

from backends import records, signals
from backends.clock import Clock
from backends.records import Mark, MarkKind
from backends.signals import Signal

TELLINGS = 2  # signals of a gateway; between two it has read the registry

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class DrainPace:
    """Seconds: for gateways to have read the mark; of no call in flight; between looks; at most.

    `within_s` must be longer than the longest generation: what still runs then is cut.
    """

    settle_s: float = 2.0
    quiet_s: float = 3.0
    look_every_s: float = 0.5
    within_s: float = 900.0


async def drained(
    store: Redis,
    replica_ids: Sequence[str],
    end: Callable[[], Awaitable[None]],
    *,
    clock: Clock,
    pace: DrainPace | None = None,
    busy: Callable[[], Awaitable[int]] | None = None,
) -> bool:
    """Drain replicas and `end` them; False if calls were still in flight at the hard deadline.

    `busy` counts what the engines themselves run. An unanswering store counts as busy, as does a
    gateway until it has told `TELLINGS` times anew that it has no call there: one that stalls has
    not read the mark, and may send one more. One whose signal has expired is not waited for; where
    none is left, all may be standing still, and it must have been quiet for a signal's life.

    The mark of what is still leased when `end` returns stays: gateways would take it for one to
    use. It goes with the lease.
    """
    pace = pace or DrainPace()
    give_up_at = clock.monotonic() + pace.within_s
    await _mark(store, replica_ids, clock)
    await clock.sleep(min(pace.settle_s, pace.within_s))
    told = _Told()
    quiet_since: float | None = None
    empty = False
    while clock.monotonic() < give_up_at:
        found = await _signals(store)
        count = 1 if found is None else _in_flight(found, replica_ids)
        count += await busy() if busy is not None else 0
        now = clock.monotonic()
        if count:
            told, quiet_since = _Told(), None
        elif quiet_since is None:
            quiet_since = now
        quiet_s = pace.quiet_s if found else max(pace.quiet_s, signals.EXPIRY_S)
        is_told = told.by_all(found or ())
        if quiet_since is not None and is_told and now - quiet_since >= quiet_s:
            empty = True
            break
        await clock.sleep(pace.look_every_s)
    if not empty:
        _log.warning("calls were still in flight after %.0f s of draining", pace.within_s)
    await end()
    await _unmark_unleased(store, replica_ids)
    return empty


async def _mark(store: Redis, ids: Sequence[str], clock: Clock) -> None:
    mark = records.encode_mark(Mark(MarkKind.DRAINING, clock.now()))
    for wait_s in (0.2, 0.5, 1.0, 2.0, 5.0):
        try:
            await store.hset(records.MARKS, mapping=dict.fromkeys(ids, mark))
            return
        except RedisError as error:
            _log.warning("draining could not be told yet: %s", error)
            await clock.sleep(wait_s)
    await store.hset(records.MARKS, mapping=dict.fromkeys(ids, mark))


async def _unmark_unleased(store: Redis, ids: Sequence[str]) -> None:
    """Take away the marks that go with no lease.

    A process that leaves takes its own along, and `records.RENEW` those of one that was killed.
    """
    try:
        ends_at = await store.zmscore(records.LEASES, list(ids))
        unleased = [id_ for id_, at in zip(ids, ends_at, strict=True) if at is None]
        if unleased:
            await store.hdel(records.MARKS, *unleased)
    except RedisError as error:  # a lease that comes again under the same id ends the mark
        _log.warning("the mark of %s stays: %s", ", ".join(ids), error)


@dataclass(slots=True)
class _Told:
    """How often has each gateway told something new?"""

    _last: dict[str, tuple[float, int]] = field(default_factory=dict)

    def by_all(self, found: Sequence[Signal]) -> bool:
        """Take in one look; whether all gateways that live have told often enough."""
        for signal in found:
            at, times = self._last.get(signal.gateway, (signal.at, 0))
            self._last[signal.gateway] = (signal.at, times + (signal.at != at))
        return all(self._last[signal.gateway][1] >= TELLINGS for signal in found)


async def _signals(store: Redis) -> Sequence[Signal] | None:
    """Read what gateways have last told; None where the store does not answer."""
    try:
        async with asyncio.timeout(5.0):
            return await signals.read(store)
    except (RedisError, TimeoutError):
        return None


def _in_flight(found: Sequence[Signal], ids: Sequence[str]) -> int:
    """Count the calls that gateways have on these replicas."""
    return sum(signal.replicas.get(id_, 0) for signal in found for id_ in ids)
