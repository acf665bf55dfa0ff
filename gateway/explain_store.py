"""Which calls are explained later, and where do their records lie? In Redis for an hour, capped.

| key | type | holds |
| --- | --- | --- |
| `sluice:explain:ID` | string | the record of one call as JSON, deflated; expires |
"""

import zlib
from collections import OrderedDict
from collections.abc import Mapping
from types import TracebackType
from typing import Any

import orjson
import structlog
from redis import RedisError
from redis.asyncio import Redis

from backends.clock import Clock
from gateway.accounting import outcome_of
from gateway.call import Call, Receipt
from gateway.explain import Record, went_badly, worded

PREFIX = "sluice:explain:"
WRITE_EVERY_S = 0.5
RECENT = 1_000  # records that this process keeps at hand, whatever the cap on the shared ones
MOST_UNWRITTEN = 2_000
PLAIN_SHARE = 0.5  # of the cap that calls may use of which there is little to tell


class Explanations:
    """Keeps records of calls: the newest in memory, up to a rate in the store.

    A token bucket of two seconds' worth bounds what is written: half of it is kept for calls that
    were refused, waited, retried or broke. With the store away records are dropped, never calls.
    """

    def __init__(self, redis: Redis, clock: Clock, *, records_per_s: float, ttl_s: float) -> None:
        self._redis = redis
        self._clock = clock
        self._per_s = records_per_s
        self._ttl_s = ttl_s
        self._left = 2.0 * records_per_s
        self._left_at = clock.monotonic()
        self._recent: OrderedDict[str, tuple[Record, Receipt]] = OrderedDict()
        self._unwritten: list[tuple[Record, Receipt]] = []

    def record(self, call: Call, receipt: Receipt) -> "Recording":
        """Cover a call; its record is kept, or not, once the receipt is complete."""
        return Recording(self, Record(call), receipt)

    async def find(self, request_id: str) -> Mapping[str, Any] | None:
        """Give a call's record; None where none was kept, or it is too old.

        Raises redis.RedisError where only the store could know.
        """
        recent = self._recent.get(request_id)
        if recent is not None:
            return worded(*recent)
        found: bytes | None = await self._redis.get(PREFIX + request_id)  # type: ignore[assignment]
        return None if found is None else _decoded(found)

    async def run(self) -> None:
        """Write what was kept, twice a second, for ever."""
        while True:
            await self._clock.sleep(WRITE_EVERY_S)
            await self.write()

    async def write(self) -> None:
        """Write what was kept since the last time, in one round trip."""
        unwritten, self._unwritten = self._unwritten, []
        if not unwritten:
            return
        pipe = self._redis.pipeline(transaction=False)
        for record, receipt in unwritten:
            value = zlib.compress(orjson.dumps(worded(record, receipt)), 1)
            pipe.set(PREFIX + record.call.id, value, ex=max(int(self._ttl_s), 1))
        try:
            await pipe.execute()
        except RedisError as error:
            structlog.get_logger("sluice").warning("explanations lost", error=str(error))

    def keep(self, record: Record, receipt: Receipt) -> None:
        """Keep a record at hand, and for the store if there is room for it."""
        recent = self._recent
        recent[record.call.id] = (record, receipt)
        if len(recent) > RECENT:
            recent.popitem(last=False)
        now = self._clock.monotonic()
        most = 2.0 * self._per_s
        self._left = min(self._left + (now - self._left_at) * self._per_s, most)
        self._left_at = now
        least = 1.0 if went_badly(record, receipt) else PLAIN_SHARE * most
        if self._left >= max(least, 1.0) and len(self._unwritten) < MOST_UNWRITTEN:
            self._left -= 1.0
            self._unwritten.append((record, receipt))


class Recording:
    """One call while it is recorded."""

    __slots__ = ("_explanations", "_receipt", "_record")

    def __init__(self, explanations: Explanations, record: Record, receipt: Receipt) -> None:
        self._explanations = explanations
        self._record = record
        self._receipt = receipt

    def __enter__(self) -> Record:
        return self._record

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        if error is not None:
            self._receipt.outcome = outcome_of(error)
        self._explanations.keep(self._record, self._receipt)


def _decoded(value: bytes) -> Mapping[str, Any]:
    found: Mapping[str, Any] = orjson.loads(zlib.decompress(value))
    return found
