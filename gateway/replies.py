"""How is what the store replies taken in?"""

from collections.abc import Awaitable
from typing import Any, cast


async def answer(reply: Awaitable[Any] | Any) -> Any:
    """Wait for a reply: redis-py types its commands for its blocking client, too."""
    return await cast(Awaitable[Any], reply)


def text(value: bytes | str) -> str:
    """Read a reply that is a string; it comes as bytes."""
    return value.decode() if isinstance(value, bytes) else value
