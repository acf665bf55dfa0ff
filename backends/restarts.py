"""How is a replica told to start again, when that is the only way to stop what it works on?

A wish is the key `sluice:restart:<replica>`; who holds the replica's lease takes it and ends or
empties the engine. Where nobody can (the engine was started by others), the wish is left and goes.
"""

from collections.abc import Callable, Iterable

from redis.asyncio import Redis
from redis.exceptions import RedisError

from backends.clock import Clock

TAKEN_WITHIN_S = 5.0
LOOK_EVERY_S = 0.5


class Restarts:
    """Wishes of this process."""

    def __init__(self, redis: Redis, clock: Clock) -> None:
        self._redis = redis
        self._clock = clock

    async def ask(self, replica_id: str) -> bool:
        """Have a replica started again; False where nobody can. Raises RedisError."""
        key = _key(replica_id)
        await self._redis.set(key, "1", ex=int(2 * TAKEN_WITHIN_S))
        until = self._clock.monotonic() + TAKEN_WITHIN_S
        while self._clock.monotonic() < until:
            await self._clock.sleep(LOOK_EVERY_S / 2)
            if not await self._redis.exists(key):
                return True
        return not await self._redis.delete(key)


async def obey(
    redis: Redis, replica_ids: Iterable[str], restart: Callable[[str], None], clock: Clock
) -> None:
    """Look for wishes for ever; `restart` is called with the id of the replica that is meant."""
    ids = [*replica_ids]
    while True:
        await clock.sleep(LOOK_EVERY_S)
        try:
            for each, wished in zip(ids, await redis.mget(map(_key, ids)), strict=True):
                if wished is not None and await redis.delete(_key(each)):
                    restart(each)
        except (RedisError, OSError):
            continue  # the store is away; a wish waits, or is forgotten


def _key(replica_id: str) -> str:
    return f"sluice:restart:{replica_id}"
