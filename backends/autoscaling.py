"""What do operators and the autoscaler say to each other, and where does it lie in the store?

| key | type | holds |
| --- | --- | --- |
| `sluice:autoscale:control` | hash | `paused` (JSON: at, by), `approval` (0 or 1) |
| `sluice:autoscale:proposals` | hash | pool -> JSON of a plan that waits for approval |
| `sluice:autoscale:approved` | hash | pool -> id of the proposal that an operator approved |
| `sluice:autoscale:journal` | stream | decisions, newest last, bounded |
| `sluice:autoscale:state` | hash | pool -> JSON: what the leader saw and wants now |
| `sluice:autoscale:drains:POOL` | set | units whose drain was begun, until they are gone |
| `sluice:autoscale:swaps:POOL` | hash | unit -> JSON: its change between pools |
| `sluice:autoscale:starts` | hash | pool -> JSON: the cold start as observed |
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis

CONTROL = "sluice:autoscale:control"
PROPOSALS = "sluice:autoscale:proposals"
APPROVED = "sluice:autoscale:approved"
JOURNAL = "sluice:autoscale:journal"
STATE = "sluice:autoscale:state"


def drains_of(pool: str) -> str:
    """Give the key of the set of units whose drain was begun."""
    return f"sluice:autoscale:drains:{pool}"


def swaps_of(pair: str) -> str:
    """Give the key of the changes of units between two pools, by the name of the calls' pool."""
    return f"sluice:autoscale:swaps:{pair}"


@dataclass(frozen=True, slots=True)
class Control:
    """What operators have said: nothing is done while `paused_at` is set."""

    paused_at: float | None = None
    paused_by: str = ""


async def read_control(store: Redis) -> Control:
    """Read it; raises RedisError."""
    raw = await store.hget(CONTROL, "paused")
    if raw is None:
        return Control()
    said = json.loads(raw)
    return Control(float(said["at"]), str(said.get("by", "")))


async def pause(store: Redis, *, now: float, by: str) -> None:
    """Let nothing be started or stopped until `resume`; raises RedisError."""
    await store.hset(CONTROL, "paused", json.dumps({"at": now, "by": by}))


async def resume(store: Redis) -> bool:
    """End a pause; False if there was none. Raises RedisError."""
    return bool(await store.hdel(CONTROL, "paused"))


async def approve(store: Redis, pool: str) -> Mapping[str, Any] | None:
    """Approve what is proposed for a pool; None where nothing is. Raises RedisError."""
    raw = await store.hget(PROPOSALS, pool)
    if raw is None:
        return None
    proposal: dict[str, Any] = json.loads(raw)
    await store.hset(APPROVED, pool, str(proposal["id"]))
    return proposal


async def proposals(store: Redis) -> dict[str, Any]:
    """Read what waits for approval, by pool; raises RedisError."""
    found: Any = await store.hgetall(PROPOSALS)
    return {pool.decode(): json.loads(raw) for pool, raw in found.items()}


async def states(store: Redis) -> dict[str, Any]:
    """Read what the leader last saw and wants, by pool; raises RedisError."""
    found: Any = await store.hgetall(STATE)
    return {pool.decode(): json.loads(raw) for pool, raw in found.items()}
