"""How do several processes serve one port, and who starts one again that has died?

The parent makes a listening socket per worker, all on one port (SO_REUSEPORT): the kernel spreads
connections over them. A dead worker's socket listens no more until its successor serves, so that
new connections go to the others. The admin port is one socket that all workers accept from. Limits,
slots and keys are in the store; `/metrics` of any worker is that of all (`control.py`,
`exposition.py`).

Run as a module it is one worker: `python -m gateway.workers CONTROL PUBLIC ADMIN` (descriptors).
"""

import asyncio
import copyreg
import io
import os
import pickle
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Coroutine, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import structlog
import uvloop

from gateway import exposition
from gateway.config import ConfigError
from gateway.control import ANSWER_S, Kind, Line, WorkerEnd
from gateway.exposition import Families
from gateway.listeners import Bound, Listeners, bound_to, listen
from gateway.server import serve
from gateway.settings import Settings
from gateway.telemetry import set_up_logs

STEADY_S = 30.0  # who has served this long is started again at once
FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 10.0
REREAD_S = 10.0
KILL_AFTER_S = 5.0  # beyond the time for draining

Again = Callable[[], Settings]


class WorkersFailed(RuntimeError):
    """A worker ended before it ever served; its own words are in the log."""


async def serve_all(
    settings: Settings,
    *,
    redis_url: str,
    on_ready: Callable[[Bound], None] | None = None,
    stop: asyncio.Event,
    again: Again | None = None,
) -> int:
    """Serve with as many processes as the settings say; give the exit status.

    `stop` drains; cancellation ends everything at once. One process serves in this one. `again`
    reads the settings a second time, for SIGHUP and POST /admin/reload.
    """
    if settings.workers == 1:
        return await serve(settings, redis_url=redis_url, on_ready=on_ready, stop=stop, again=again)
    set_up_logs(settings.telemetry.log_level, settings.telemetry.log_format)
    return await _Parent(settings, redis_url, on_ready, stop, again).run()


@dataclass(slots=True)
class _Worker:
    """One place among the workers: its listener, and the process that has it now."""

    number: int
    listener: socket.socket
    process: subprocess.Popen[bytes] | None = None
    line: Line | None = None
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    counted: Families = field(default_factory=dict)
    told: asyncio.Event = field(default_factory=asyncio.Event)
    rereads: bool = False  # it was told to, so that it is not one who tells the others


class _Parent:
    """Starts the workers, watches them, adds up what they count."""

    def __init__(
        self,
        settings: Settings,
        redis_url: str,
        on_ready: Callable[[Bound], None] | None,
        stop: asyncio.Event,
        again: Again | None,
    ) -> None:
        self._settings = settings
        self._redis_url = redis_url
        self._again = again
        self._given = _pickled((settings, redis_url))
        self._on_ready = on_ready
        self._stop = stop
        self._departed: Families = {}
        self._workers: list[_Worker] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._log = structlog.get_logger("sluice")

    async def run(self) -> int:
        """Serve until told to stop."""
        settings = self._settings
        with ExitStack() as stack:
            first = listen(settings.host, settings.port, shared=True)
            port = first.getsockname()[1]
            more = range(1, settings.workers)
            public = [first, *(listen(settings.host, port, shared=True) for _ in more)]
            admin = listen(settings.admin_host, settings.admin_port)
            for each in (*public, admin):
                stack.callback(each.close)
            self._workers = [_Worker(n, each) for n, each in enumerate(public)]
            if self._again is not None:
                loop = asyncio.get_running_loop()
                loop.add_signal_handler(signal.SIGHUP, self._have_reread, None)
                stack.callback(loop.remove_signal_handler, signal.SIGHUP)
            keepers = [asyncio.create_task(self._keep(w, admin)) for w in self._workers]
            try:
                await self._serve(keepers, bound_to(settings, first, admin))
                for each in (*public, admin):
                    each.close()  # else what still comes waits for nobody
                await self._drain(keepers)
            finally:
                for worker in self._workers:
                    _tell(worker, signal.SIGKILL)
                for keeper in keepers:
                    keeper.cancel()
                await asyncio.gather(*keepers, return_exceptions=True)
        return 0

    async def _serve(self, keepers: list[asyncio.Task[None]], where: Bound) -> None:
        stopping = asyncio.create_task(self._stop.wait())
        readiness = asyncio.create_task(self._announce(where))
        try:
            await asyncio.wait({stopping, *keepers}, return_when=asyncio.FIRST_COMPLETED)
            for keeper in keepers:
                if keeper.done():
                    keeper.result()
        finally:
            stopping.cancel()
            readiness.cancel()

    async def _announce(self, where: Bound) -> None:
        for worker in self._workers:
            await worker.ready.wait()
        self._log.info("serving", url=where.base_url, workers=len(self._workers))
        if self._on_ready is not None:
            self._on_ready(where)

    async def _drain(self, keepers: list[asyncio.Task[None]]) -> None:
        for worker in self._workers:
            _tell(worker, signal.SIGTERM)
        await asyncio.wait(keepers, timeout=self._settings.timeouts.drain_s + KILL_AFTER_S)

    async def _keep(self, worker: _Worker, admin: socket.socket) -> None:
        """Run a worker, again and again until told to stop. Raises WorkersFailed at the first."""
        loop = asyncio.get_running_loop()
        pause_s = 0.0
        was_ready = False
        while not self._stop.is_set():
            began = loop.time()
            status = await self._run_once(worker, admin)
            was_ready = was_ready or worker.ready.is_set()
            if self._stop.is_set():
                return
            if not was_ready:
                raise WorkersFailed(f"worker {worker.number} ended with status {status}")
            self._departed = exposition.add_up([self._departed, exposition.lasting(worker.counted)])
            worker.counted = {}
            worker.ready.clear()
            pause_s = 0.0 if loop.time() - began > STEADY_S else min(
                max(FIRST_PAUSE_S, 2 * pause_s), LONGEST_PAUSE_S
            )  # fmt: skip
            self._log.error("worker died", worker=worker.number, status=status, pause_s=pause_s)
            try:
                async with asyncio.timeout(pause_s or None):
                    if pause_s:
                        await self._stop.wait()
            except TimeoutError:
                pass

    async def _run_once(self, worker: _Worker, admin: socket.socket) -> int:
        ours, theirs = socket.socketpair()
        public, control = worker.listener.fileno(), theirs.fileno()
        handed = (control, public, admin.fileno())
        with theirs:
            worker.process = process = subprocess.Popen(  # noqa: ASYNC220 nobody calls here
                [sys.executable, "-m", "gateway.workers", *map(str, handed)],
                pass_fds=handed,
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is the parent's to hear
            )
        worker.line = line = await Line.over(ours)
        line.send(Kind.SETTINGS, self._given)
        try:
            while (message := await line.receive()) is not None:
                self._hear(worker, *message)
        finally:
            line.close()
            if not self._stop.is_set():
                # It listens again when its successor does; until then the others are connected to.
                worker.listener.shutdown(socket.SHUT_RDWR)
            if process.poll() is None and not self._stop.is_set():
                process.kill()  # it has let go of us, or we are cancelled
        return await asyncio.to_thread(process.wait)

    def _hear(self, worker: _Worker, kind: Kind, content: bytes) -> None:
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

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(_log_failure)

    def _have_reread(self, but: _Worker | None) -> None:
        """Have all workers but one read the settings again."""
        for worker in self._workers:
            if worker is not but and worker.ready.is_set():
                worker.rereads = True
                _tell(worker, signal.SIGHUP)

    async def _reread(self, asker: _Worker) -> None:
        answer = (Kind.FAULT, b"this gateway was started without a file to read again")
        if self._again is not None:
            try:
                new = await asyncio.to_thread(self._again)
            except ConfigError as error:
                answer = (Kind.FAULT, str(error).encode())
            else:
                self._given = _pickled((new, self._redis_url))
                answer = (Kind.SETTINGS, self._given)
        if asker.line is not None:
            asker.line.send(*answer)
        if not asker.rereads and answer[0] is Kind.SETTINGS:
            self._have_reread(asker)
        asker.rereads = False

    async def _gather(self, asker: _Worker) -> None:
        others = [w for w in self._workers if w is not asker and w.ready.is_set()]
        for other in others:
            other.told.clear()
            if other.line is not None:
                other.line.send(Kind.TELL)
        waits = [asyncio.create_task(other.told.wait()) for other in others]
        if waits:
            _, late = await asyncio.wait(waits, timeout=ANSWER_S)
            for each in late:
                each.cancel()  # what it said last is taken
        total = exposition.add_up([self._departed, *(w.counted for w in self._workers)])
        if asker.line is not None:
            asker.line.send(Kind.GATHERED, exposition.write(total).encode())


def _pickled(value: object) -> bytes:
    """Give bytes of settings, whose mappings are read-only, which pickle does not know."""
    out = io.BytesIO()
    pickler = pickle.Pickler(out)
    pickler.dispatch_table = copyreg.dispatch_table | {
        MappingProxyType: lambda mapping: (_read_only, (dict(mapping),))
    }
    pickler.dump(value)
    return out.getvalue()


def _read_only(mapping: dict[str, object]) -> Mapping[str, object]:
    return MappingProxyType(mapping)


def _tell(worker: _Worker, number: signal.Signals) -> None:
    if worker.process is not None and worker.process.poll() is None:
        os.kill(worker.process.pid, number)


def _log_failure(task: "asyncio.Task[None]") -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        structlog.get_logger("sluice").error("a worker was not answered", exc_info=error)


async def _work(control: int, public: int, admin: int) -> int:
    """Be one worker."""
    line = await Line.over(socket.socket(fileno=control))
    message = await line.receive()
    if message is None:
        return 1
    settings, redis_url = pickle.loads(message[1])  # noqa: S301 from our own parent
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    ends: list[WorkerEnd] = []

    def together(count: Callable[[], bytes]) -> WorkerEnd:
        ends.append(WorkerEnd(line, count, stop.set))
        return ends[0]

    def again() -> Settings:
        """Ask the parent, from the thread in which settings are read."""
        kind, content = asyncio.run_coroutine_threadsafe(ends[0].reread(), loop).result(REREAD_S)
        if kind is not Kind.SETTINGS:
            raise ConfigError(content.decode())
        found: tuple[Settings, str] = pickle.loads(content)  # noqa: S301 from our own parent
        return found[0]

    return await serve(
        settings,
        redis_url=redis_url,
        stop=stop,
        listeners=Listeners(socket.socket(fileno=public), socket.socket(fileno=admin)),
        on_ready=lambda _: line.send(Kind.READY),
        together=together,
        again=again,
    )


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        sys.exit(runner.run(_work(*map(int, sys.argv[1:4]))))
