"""What work can wait, and until when? Written by gateways, read by the autoscaler.

`sluice:backlogs:POOL` holds one JSON document per pool of jobs. Jobs lie in the store and are the
same whoever asks, so any gateway's document is the whole of it and the last one written counts.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis

PREFIX = "sluice:backlogs:"
EVERY_S = 5.0
EXPIRY_S = 30.0
VERSION = 1


@dataclass(frozen=True, slots=True)
class PoolBacklog:
    """Jobs of one pool that wait: `at` a Unix instant, `due` pairs of (Unix instant, replica
    seconds of work that are due by then and not by the one before).
    """

    pool: str
    at: float
    due: tuple[tuple[float, float], ...] = ()

    @property
    def waiting_s(self) -> float:
        """All the work that waits, in replica seconds."""
        return sum(work_s for _, work_s in self.due)


def encode(backlog: PoolBacklog) -> bytes:
    """Write a document."""
    body = {"version": VERSION, "at": backlog.at, "due": [list(each) for each in backlog.due]}
    return json.dumps(body, separators=(",", ":")).encode()


def decode(pool: str, raw: bytes) -> PoolBacklog | None:
    """Read a document; None where it is of another version or broken."""
    try:
        body = json.loads(raw)
        if body["version"] != VERSION:
            return None
        due = tuple((float(at), float(work_s)) for at, work_s in body["due"])
        return PoolBacklog(pool, float(body["at"]), due)
    except (ValueError, TypeError, KeyError):
        return None


async def write(store: Redis, backlogs: Sequence[PoolBacklog]) -> None:
    """Publish; a document ends by itself when no gateway writes it any more. Raises RedisError."""
    async with store.pipeline(transaction=False) as batch:
        for each in backlogs:
            batch.set(PREFIX + each.pool, encode(each), px=int(EXPIRY_S * 1000))
        await batch.execute()


async def read(store: Redis, pools: Sequence[str]) -> dict[str, PoolBacklog]:
    """Read the backlogs of pools; one that nobody tells is missing. Raises RedisError."""
    if not pools:
        return {}
    answers: list[Any] = await store.mget([PREFIX + each for each in pools])
    found = (decode(p, raw) for p, raw in zip(pools, answers, strict=True) if raw is not None)
    return {each.pool: each for each in found if each is not None}
