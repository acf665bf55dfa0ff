"""Does the store hold what this version reads and writes?

One number, raised by a release that changes the meaning of a key. A gateway does not start on a
store of another number, so that an old and a new one never take each other's data for their own.
There is no migration yet: 1 is the first.
"""

from collections.abc import Awaitable
from typing import cast

from redis.asyncio import Redis
from redis.exceptions import RedisError

KEY = "sluice:schema"
VERSION = 1


class WrongSchema(RuntimeError):
    """The store was written by a version that this one does not understand."""


async def check_schema(store: Redis) -> int | None:
    """Give the store's number, writing ours where there is none; None while it does not answer.

    Raises WrongSchema. A store that is away is no reason not to start: the others serve on, too.
    """
    try:
        await store.set(KEY, VERSION, nx=True)
        found = await cast(Awaitable[bytes | None], store.get(KEY))
    except (RedisError, OSError):
        return None
    if found is None or not found.isdigit() or int(found) != VERSION:
        shown = "nothing" if found is None else found.decode(errors="replace")
        raise WrongSchema(
            f"the store has schema {shown}, this version reads and writes {VERSION}: start the"
            " version that wrote it, or give this one a store (or a database number) of its own"
        )
    return VERSION
