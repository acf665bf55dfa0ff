"""What time is it, and who may sleep?"""

import asyncio
import time
from typing import Protocol


class Clock(Protocol):
    """The only way to time in code that sleeps; pure code takes instants as arguments."""

    def now(self) -> float:
        """Give the instant in Unix seconds, comparable between machines."""
        ...

    def monotonic(self) -> float:
        """Give seconds that never go back, comparable within this process."""
        ...

    async def sleep(self, delay_s: float) -> None:
        """Wait for `delay_s` seconds."""
        ...


class SystemClock:
    """The machine's own time."""

    # The system's own functions: a call is timed twenty times on its way.
    now = staticmethod(time.time)
    monotonic = staticmethod(time.monotonic)

    async def sleep(self, delay_s: float) -> None:
        """Wait for `delay_s` seconds."""
        await asyncio.sleep(delay_s)
