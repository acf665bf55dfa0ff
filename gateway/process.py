"""What does a gateway process ask of the system that it runs on: files, memory, signals?"""

import asyncio
import gc
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager


def allow_open_files() -> None:
    """Raise the soft limit on open files to the hard one: a stream takes two."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError):
        return  # a system that does not take its own limit: the soft one stays


def spare_the_collector() -> None:
    """Let the cyclic garbage collector look at less, and less often.

    What is there when a process begins stays to its end; calls and streams make few cycles. The
    defaults walk all open streams for every 700 objects, which is a pause for each of them.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


@contextmanager
def signals_end(ended: asyncio.Event) -> Iterator[None]:
    """Let the first SIGTERM or SIGINT set an event, and the second cancel this task."""
    loop = asyncio.get_running_loop()
    main = asyncio.current_task()

    def told() -> None:
        if ended.is_set() and main is not None:
            main.cancel()
        ended.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told)
    try:
        yield
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
