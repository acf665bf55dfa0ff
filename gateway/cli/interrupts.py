"""What do Ctrl-C and SIGTERM do to a command that serves?

The first asks it to finish, the second to end at once.
"""

import asyncio
import signal
from collections.abc import Callable, Coroutine
from typing import Any

import uvloop

INTERRUPTED = 130


class Interrupts:
    """What was asked: `stop` is set by the first signal; `at_once` runs at each later one.

    `say` tells whoever waits at a terminal what the first one has begun.
    """

    def __init__(self) -> None:
        self.stop = asyncio.Event()
        self.at_once: list[Callable[[], object]] = []
        self.say: Callable[[], object] | None = None
        self._told = 0

    @property
    def urgent(self) -> bool:
        """Whether nothing is to be waited for."""
        return self._told > 1

    def tell(self) -> None:
        """Take one signal."""
        self._told += 1
        self.stop.set()
        if self._told == 1 and self.say is not None:
            self.say()
        if self.urgent:
            for act in self.at_once:
                act()


def run(serve: Callable[[Interrupts], Coroutine[Any, Any, int]]) -> int:
    """Run `serve` to its end; a second signal cancels it. Gives the exit status."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_guarded(serve))


async def _guarded(serve: Callable[[Interrupts], Coroutine[Any, Any, int]]) -> int:
    interrupts = Interrupts()
    task = asyncio.ensure_future(serve(interrupts))
    interrupts.at_once.append(task.cancel)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, interrupts.tell)
    await asyncio.wait([task])
    if task.cancelled():
        return INTERRUPTED
    return task.result()
