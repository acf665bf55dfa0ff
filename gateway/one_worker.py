"""What is one of several processes that serve one port? `python -m gateway.one_worker`.

Its arguments are descriptors: CONTROL, its end of the channel to the parent (`workers.py`), and the
sockets PUBLIC and ADMIN that it listens on. What it serves with comes over the channel.
"""

import asyncio
import signal
import socket
import sys
from collections.abc import Callable

import uvloop

from gateway.config import ConfigError
from gateway.control import Channel, Kind, WorkerEnd, unpack
from gateway.listeners import Listeners
from gateway.server import serve
from gateway.settings import Settings

REREAD_S = 10.0


async def work(control: int, public: int, admin: int) -> int:
    """Serve until told to stop, by a signal or by the end of the parent; give the exit status."""
    channel = await Channel.over(socket.socket(fileno=control))
    message = await channel.receive()
    if message is None:
        return 1
    settings, redis_url = unpack(message[1])
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    ends: list[WorkerEnd] = []

    def together(count: Callable[[], bytes]) -> WorkerEnd:
        ends.append(WorkerEnd(channel, count, stop.set))
        return ends[0]

    def again() -> Settings:
        """Ask the parent, from the thread in which settings are read."""
        kind, content = asyncio.run_coroutine_threadsafe(ends[0].reread(), loop).result(REREAD_S)
        if kind is not Kind.SETTINGS:
            raise ConfigError(content.decode())
        return unpack(content)[0]

    return await serve(
        settings,
        redis_url=redis_url,
        stop=stop,
        listeners=Listeners(socket.socket(fileno=public), socket.socket(fileno=admin)),
        on_ready=lambda _: channel.send(Kind.READY),
        together=together,
        again=again,
    )


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        sys.exit(runner.run(work(*map(int, sys.argv[1:4]))))
