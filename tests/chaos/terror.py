"""Who dies when: at random, until enough is done or the time for it is over."""

import asyncio
import random
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from tests.chaos.processes import Mortal, StoreProcess


@dataclass
class Terror:
    """Kills at random: of what happens a half meets workers, a fifth each gateways and the store.

    The rest are times in which the store answers nobody. `times` holds the instants (monotonic) at
    which something was done to somebody.
    """

    workers: list[Mortal]
    gateways: list[Mortal]
    store: StoreProcess
    every_s: float
    least_age_s: float
    seed: int
    times: list[float] = field(default_factory=list)

    async def reign(self, enough: Callable[[], bool]) -> None:
        """Kill somebody every now and then, until that is enough."""
        chance = random.Random(self.seed)
        while not enough():
            await asyncio.sleep(chance.expovariate(1 / self.every_s))
            if await self._strike(chance):
                self.times.append(time.monotonic())

    async def _strike(self, chance: random.Random) -> bool:
        """Do one thing to somebody; False where it was too young, or dead already."""
        what, age_s = chance.random(), self.least_age_s
        if what < 0.5:
            return chance.choice(self.workers).kill(least_age_s=age_s)
        if what < 0.7:
            return chance.choice(self.gateways).kill(least_age_s=age_s)
        if what < 0.9:
            return self.store.kill(least_age_s=2 * age_s)
        return await self.store.pause(chance.uniform(0.5, 3.0))

    def span_s(self, began: float) -> tuple[float, float]:
        """Give the first and the last instant of it after `began`, in seconds; 0, 0 if none."""
        if not self.times:
            return 0.0, 0.0
        return round(self.times[0] - began, 1), round(self.times[-1] - began, 1)


async def endure(
    work: Coroutine[Any, Any, None],
    terror: Coroutine[Any, Any, None],
    *,
    terror_within_s: float,
    peace_within_s: float,
    at_peace: Callable[[], None] = lambda: None,
) -> None:
    """Do the work, in terror until that ends or its time is over; give it up so long afterwards."""
    working, fearing = asyncio.create_task(work), asyncio.create_task(terror)
    try:
        await asyncio.wait(
            {working, fearing}, timeout=terror_within_s, return_when="FIRST_COMPLETED"
        )
        broke = fearing.done() and fearing.exception() is not None
        fearing.cancel()
        at_peace()
        if not broke:
            await asyncio.wait({working}, timeout=peace_within_s)
    finally:
        for each in (working, fearing):
            each.cancel()
        ends = await asyncio.gather(working, fearing, return_exceptions=True)
    for end in ends:
        if isinstance(end, Exception):
            raise end  # a fault of this run's own; what is given up has been cancelled
