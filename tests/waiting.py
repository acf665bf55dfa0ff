"""How does a test wait for what takes its own time?"""

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable


async def eventually(
    condition: Callable[[], bool | Awaitable[bool]],
    *,
    within_s: float = 20.0,
    every_s: float = 0.02,
) -> None:
    """Return once the condition holds; fail if it does not within the time."""
    deadline = time.monotonic() + within_s
    while True:
        found = condition()
        if inspect.isawaitable(found):
            found = await found
        if found:
            return
        assert time.monotonic() < deadline, "it did not come true in time"
        await asyncio.sleep(every_s)
