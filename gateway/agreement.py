"""What do all processes together ask of each pool, and for which class do they keep its replicas?

Gateways and workers each see their own calls only; rows of a batch, say, come from a worker that
hears of no interactive call. So each writes twice a second what it was asked for into the hash
`sluice:demand`, and reads what the others were. The first of them by name says which replica is
kept for which class, and the others follow. With the store away each goes by what it sees itself.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import msgspec
import orjson
import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from backends.clock import Clock
from gateway.levels import Level
from gateway.pool_state import PoolState

KEY = "sluice:demand"
EVERY_S = 0.5
FRESH_S = 3.0
FORGOTTEN_S = 60.0

_log = structlog.get_logger("sluice")


@dataclass(frozen=True, slots=True)
class Told:
    """What one process wrote: work per second by model and class, and its choice of replicas."""

    at: float
    demand: Mapping[str, Mapping[str, float]]
    kept: Mapping[str, Mapping[str, tuple[str, bool]]]

    @classmethod
    def read(cls, raw: bytes) -> "Told | None":
        """Read what was written; None for what is not ours to understand."""
        try:
            return msgspec.json.decode(raw, type=cls)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return None


class Agreement:
    """Keeps the states of this process's pools in agreement with those of the others."""

    def __init__(
        self, redis: Redis, states: Callable[[], Mapping[str, PoolState]], clock: Clock, name: str
    ) -> None:
        self._redis = redis
        self._states = states
        self._clock = clock
        self._name = name

    async def run(self) -> None:
        """Exchange for ever."""
        while True:
            try:
                others = await self._exchange(self._clock.now())
            except (RedisError, OSError) as error:
                _log.debug("no_agreement", error=str(error)[:200])
                others = {}
            self._take(others)
            await self._clock.sleep(EVERY_S)

    async def leave(self) -> None:
        """Take back what was written."""
        try:
            await cast(Any, self._redis.hdel(KEY, self._name))
        except (RedisError, OSError):
            return  # it is forgotten within seconds

    async def _exchange(self, now: float) -> Mapping[str, Told]:
        """Write ours; give what the others wrote lately, by their names."""
        async with self._redis.pipeline(transaction=False) as batch:
            batch.hset(KEY, self._name, self._told(now))
            batch.hgetall(KEY)
            _, found = await batch.execute()
        read = {name.decode(errors="replace"): Told.read(raw) for name, raw in found.items()}
        told = {name: each for name, each in read.items() if each is not None}
        if gone := [name for name, each in told.items() if each.at < now - FORGOTTEN_S]:
            await cast(Any, self._redis.hdel(KEY, *gone))
        told.pop(self._name, None)
        return {name: each for name, each in told.items() if each.at > now - FRESH_S}

    def _told(self, now: float) -> bytes:
        demand, kept = {}, {}
        for model, state in self._states().items():
            mine = {name: d.now(now) for name, d in state.demand.items() if d.is_alive(now)}
            if mine:
                demand[model] = mine
            kept[model] = {id_: (each.name, each.alone) for id_, each in state.kept_for.items()}
        return orjson.dumps({"at": now, "demand": demand, "kept": kept})

    def _take(self, others: Mapping[str, Told]) -> None:
        first = min(others, default=self._name)
        for model, state in self._states().items():
            total: dict[str, float] = {}
            for each in others.values():
                for name, per_s in each.demand.get(model, {}).items():
                    total[name] = total.get(name, 0.0) + per_s
            state.others = total
            state.agreed = None
            if first < self._name and (kept := others[first].kept.get(model)):
                state.agreed = {id_: Level(*each) for id_, each in kept.items()}
