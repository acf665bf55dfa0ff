"""How do leases, adoptions and marks lie in the store?

| key | type | holds |
| --- | --- | --- |
| `sluice:replicas` | hash | id -> description of a leased replica, with its lease's length |
| `sluice:leases` | sorted set | id -> when its lease ends, Unix seconds by the store's clock |
| `sluice:adopted` | hash | id -> description of a replica adopted at run time, until removed |
| `sluice:marks` | hash | id -> what an operator said of it: draining, removed |
"""

import dataclasses
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import orjson
from redis.asyncio import Redis

from backends.fleet import EngineKind, Replica

REPLICAS = "sluice:replicas"
LEASES = "sluice:leases"
ADOPTED = "sluice:adopted"
MARKS = "sluice:marks"

# The store's clock is the only one that all writers and readers of leases share, so it is asked
# here, unlike in scripts whose times are policy. ARGV: length of the leases in seconds, then pairs
# of id and record. Gives the operator's mark of each. Drops what ended ten minutes ago.
RENEW = """
local clock = redis.call('TIME')
local now = clock[1] + clock[2] / 1000000
local marks = {}
for i = 2, #ARGV, 2 do
  local id, record = ARGV[i], ARGV[i + 1]
  if redis.call('HGET', KEYS[1], id) ~= record then redis.call('HSET', KEYS[1], id, record) end
  redis.call('ZADD', KEYS[2], string.format('%.3f', now + ARGV[1]), id)
  marks[#marks + 1] = redis.call('HGET', KEYS[3], id)
end
for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now - 600)) do
  redis.call('ZREM', KEYS[2], id)
  redis.call('HDEL', KEYS[1], id)
  redis.call('HDEL', KEYS[3], id)
end
return marks
"""
RENEW_KEYS = (REPLICAS, LEASES, MARKS)

_FIELDS = frozenset(f.name for f in dataclasses.fields(Replica))
_log = logging.getLogger(__name__)


class MarkKind(StrEnum):
    """What an operator may say of a replica."""

    DRAINING = "draining"
    REMOVED = "removed"


@dataclass(frozen=True, slots=True)
class Mark:
    """What an operator said of a replica, and when (Unix seconds)."""

    kind: MarkKind
    at: float


@dataclass(frozen=True, slots=True)
class Record:
    """A replica as it is written down; `draining` is its own process's word."""

    replica: Replica
    lease_s: float = 0.0
    draining: bool = False


@dataclass(frozen=True, slots=True)
class Listing:
    """All that the store knew at `now` (Unix seconds by its clock); `ends_at` by replica id."""

    now: float
    leased: Mapping[str, Record]
    ends_at: Mapping[str, float]
    adopted: Mapping[str, Record]
    marks: Mapping[str, Mark]


def encode(record: Record) -> bytes:
    """Write a record down. It holds the replica's API key: the store is private."""
    replica = {k: v for k, v in dataclasses.asdict(record.replica).items() if v is not None}
    return orjson.dumps({**replica, "lease_s": record.lease_s, "draining": record.draining})


def decode(raw: bytes) -> Record | None:
    """Read a record; None for one that we do not understand (another version's)."""
    try:
        given = orjson.loads(raw)
        fields = {name: value for name, value in given.items() if name in _FIELDS}
        fields["engine"] = EngineKind(fields["engine"])
        replica = Replica(**fields)
        return Record(replica, float(given["lease_s"]), bool(given["draining"]))
    except (ValueError, TypeError, KeyError, AttributeError):
        _log.warning("a replica's record was not understood (%d bytes)", len(raw))
        return None


def encode_mark(mark: Mark) -> bytes:
    """Write a mark down."""
    return orjson.dumps({"kind": mark.kind, "at": mark.at})


def decode_mark(raw: bytes) -> Mark | None:
    """Read a mark; None for one that we do not understand."""
    try:
        given = orjson.loads(raw)
        return Mark(MarkKind(given["kind"]), float(given["at"]))
    except (ValueError, TypeError, KeyError):
        return None


async def read(store: Redis) -> Listing:
    """Read all of it in one round trip; raises RedisError."""
    async with store.pipeline(transaction=True) as pipe:
        pipe.time()
        pipe.hgetall(REPLICAS)
        pipe.zrange(LEASES, 0, -1, withscores=True)
        pipe.hgetall(ADOPTED)
        pipe.hgetall(MARKS)
        answers: Sequence[Any] = await pipe.execute()
    (seconds, micros), leased, ends_at, adopted, marks = answers
    marked = ((key.decode(), decode_mark(raw)) for key, raw in marks.items())
    return Listing(
        now=int(seconds) + int(micros) / 1e6,
        leased=_records(leased.items()),
        ends_at={id_.decode(): float(score) for id_, score in ends_at},
        adopted=_records(adopted.items()),
        marks={id_: mark for id_, mark in marked if mark is not None},
    )


def _records(items: Iterable[tuple[bytes, bytes]]) -> dict[str, Record]:
    decoded = ((key.decode(), decode(raw)) for key, raw in items)
    return {id_: record for id_, record in decoded if record is not None}
