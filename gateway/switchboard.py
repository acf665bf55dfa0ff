"""What do a gateway's processes ask of the one that watches them, and what does it answer?

What all have counted, for `/metrics` of any of them is that of all; and what the settings say now,
so that one that is told to read them again has all do so.
"""

import asyncio
import os
import signal
import socket
import subprocess
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any

import structlog

from gateway import exposition
from gateway.config import ConfigError
from gateway.control import ANSWER_S, Channel, Kind, pack
from gateway.exposition import Families
from gateway.settings import Settings

Again = Callable[[], Settings]


@dataclass(slots=True)
class GatewayWorker:
    """One place among the workers: its listener, and the process that has it now."""

    number: int
    listener: socket.socket
    process: subprocess.Popen[bytes] | None = None
    channel: Channel | None = None
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    counted: Families = field(default_factory=dict)  # what it said last
    told: asyncio.Event = field(default_factory=asyncio.Event)  # it has answered TELL
    rereads: bool = False  # it was told to, so that it is not one who tells the others

    def send_signal(self, number: signal.Signals) -> None:
        """Signal its process, if one runs."""
        if self.process is not None and self.process.poll() is None:
            os.kill(self.process.pid, number)


class Switchboard:
    """Hears all workers, and answers them.

    `again` reads the settings a second time. `settings` is what a worker that starts is told.
    """

    def __init__(
        self,
        workers: Sequence[GatewayWorker],
        settings: Settings,
        redis_url: str,
        again: Again | None,
    ) -> None:
        self.settings = pack(settings, redis_url)
        self._workers = workers
        self._redis_url = redis_url
        self._again = again
        self._departed: Families = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._log = structlog.get_logger("sluice")

    def hear(self, worker: GatewayWorker, kind: Kind, content: bytes) -> None:
        """Take in what a worker says."""
        match kind:
            case Kind.READY:
                worker.ready.set()
            case Kind.METRICS:
                worker.counted = exposition.read(content.decode())
                worker.told.set()
            case Kind.GATHER:
                self._begin(self._gather(worker))
            case Kind.REREAD:
                self._begin(self._reread(worker))
            case _:
                self._log.error("a worker said what only its parent says", kind=kind.name)

    def departed(self, worker: GatewayWorker) -> None:
        """Keep what a process has counted that is no more, for its successor begins at nothing."""
        self._departed = exposition.add_up([self._departed, exposition.lasting(worker.counted)])
        worker.counted = {}

    def have_reread(self, but: GatewayWorker | None) -> None:
        """Have all workers but one read the settings again."""
        for worker in self._workers:
            if worker is not but and worker.ready.is_set():
                worker.rereads = True
                worker.send_signal(signal.SIGHUP)

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(_log_failure)

    async def _reread(self, asker: GatewayWorker) -> None:
        answer = (Kind.FAULT, b"this gateway was started without a file to read again")
        if self._again is not None:
            try:
                new = await asyncio.to_thread(self._again)
            except ConfigError as error:
                answer = (Kind.FAULT, str(error).encode())
            else:
                self.settings = pack(new, self._redis_url)
                answer = (Kind.SETTINGS, self.settings)
        if asker.channel is not None:
            asker.channel.send(*answer)
        if not asker.rereads and answer[0] is Kind.SETTINGS:
            self.have_reread(asker)
        asker.rereads = False

    async def _gather(self, asker: GatewayWorker) -> None:
        others = [w for w in self._workers if w is not asker and w.ready.is_set()]
        for other in others:
            other.told.clear()
            if other.channel is not None:
                other.channel.send(Kind.TELL)
        waits = [asyncio.create_task(other.told.wait()) for other in others]
        if waits:
            _, late = await asyncio.wait(waits, timeout=ANSWER_S)
            for each in late:
                each.cancel()  # what it said last is taken
        total = exposition.add_up([self._departed, *(w.counted for w in self._workers)])
        if asker.channel is not None:
            asker.channel.send(Kind.GATHERED, exposition.write(total).encode())


def _log_failure(task: "asyncio.Task[None]") -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        structlog.get_logger("sluice").error("a worker was not answered", exc_info=error)
