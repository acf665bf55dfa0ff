"""Does the store hold what this version reads and writes, and how does it come to?

One number, raised by a release that changes the meaning of a key:

1  the ledger's `:view:<gateway>` holds three bounds of a replica
2  it holds a fourth, `spare`, which versions that know only 1 cannot read

A process starts on any number from `OLDEST` to `VERSION`, and writes what the store's number says,
so that gateways are replaced one by one. The number is raised by hand, by `sluice store migrate`,
once none is left that knows the older one only. On a newer number nothing starts.
"""

from collections.abc import Awaitable, Mapping
from types import MappingProxyType
from typing import cast

from redis.asyncio import Redis
from redis.exceptions import RedisError

KEY = "sluice:schema"
OLDEST, VERSION = 1, 2
# What a step does, by the number that it begins with; none so far has a key to write again.
STEPS: Mapping[int, str] = MappingProxyType(
    {1: "gateways that start from now on tell how much of a bound is spare; nothing is rewritten"}
)
_RAISE = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2])
return 1
"""


class WrongSchema(RuntimeError):
    """The store was written by a version that this one does not understand."""


async def check_schema(store: Redis) -> int | None:
    """Give the store's number, writing ours where there is none; None while it does not answer.

    Raises WrongSchema. A store that is away is no reason not to start: the others serve on, too.
    """
    try:
        await store.set(KEY, VERSION, nx=True)
        return await _found(store)
    except (RedisError, OSError):
        return None


async def migrate(store: Redis) -> list[str]:
    """Raise the store's number to ours; give what each step has done, nothing if it was ours.

    Raises WrongSchema, and redis.RedisError for a store that does not answer.
    """
    await store.set(KEY, VERSION, nx=True)
    done: list[str] = []
    while (number := await _found(store)) < VERSION:
        raised = await cast(
            Awaitable[int], store.eval(_RAISE, 1, KEY, str(number), str(number + 1))
        )
        if raised:
            done.append(f"{number} -> {number + 1}: {STEPS[number]}")
    return done


async def _found(store: Redis) -> int:
    found = await cast(Awaitable[bytes | None], store.get(KEY))
    if found is None or not found.isdigit():
        shown = "nothing" if found is None else repr(found.decode(errors="replace"))
        raise WrongSchema(f"the store's schema number ({KEY}) is {shown}: it is not ours")
    number = int(found)
    if number > VERSION:
        raise WrongSchema(
            f"the store has schema {number}, which is newer than this version knows"
            f" ({OLDEST} to {VERSION}): start the version that wrote it, or give this one a store"
            " (or a database number) of its own"
        )
    if number < OLDEST:
        raise WrongSchema(
            f"the store has schema {number}, which is older than this version reads ({OLDEST} to"
            f" {VERSION}): migrate it with a version that knows both"
        )
    return number
