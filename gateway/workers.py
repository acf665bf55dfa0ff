"""How do several processes serve one port, and who starts one again that has died?

The parent makes a listening socket per worker, all on one port (SO_REUSEPORT): the kernel spreads
connections over them. A dead worker's socket listens no more until its successor serves, so that
new connections go to the others. The admin port is one socket that all workers accept from. Limits,
slots and keys are in the store; what workers ask of each other goes through the parent
(`switchboard.py`). `one_worker.py` is what a worker runs.
"""

import asyncio
import contextlib
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack

import structlog

from gateway.control import Channel, Kind
from gateway.listeners import Bound, bound_to, listen
from gateway.server import serve
from gateway.settings import Settings
from gateway.switchboard import Again, GatewayWorker, Switchboard
from gateway.telemetry import set_up_logs

STEADY_S = 30.0  # who has served this long is started again at once
FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 10.0
KILL_AFTER_S = 5.0  # beyond the time for draining


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


class _Parent:
    """Starts the workers, and starts those again that die, until told to stop."""

    def __init__(
        self,
        settings: Settings,
        redis_url: str,
        on_ready: Callable[[Bound], None] | None,
        stop: asyncio.Event,
        again: Again | None,
    ) -> None:
        self._settings = settings
        self._again = again
        self._on_ready = on_ready
        self._stop = stop
        self._workers: list[GatewayWorker] = []
        self._switchboard = Switchboard(self._workers, settings, redis_url, again)
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
            self._workers.extend(GatewayWorker(n, each) for n, each in enumerate(public))
            if self._again is not None:
                loop = asyncio.get_running_loop()
                loop.add_signal_handler(signal.SIGHUP, self._switchboard.have_reread, None)
                stack.callback(loop.remove_signal_handler, signal.SIGHUP)
            keepers = [asyncio.create_task(self._keep(w, admin)) for w in self._workers]
            try:
                await self._serve(keepers, bound_to(settings, first, admin))
                for each in (*public, admin):
                    each.close()  # else what still comes waits for nobody
                await self._drain(keepers)
            finally:
                for worker in self._workers:
                    worker.send_signal(signal.SIGKILL)
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
            worker.send_signal(signal.SIGTERM)
        await asyncio.wait(keepers, timeout=self._settings.timeouts.drain_s + KILL_AFTER_S)

    async def _keep(self, worker: GatewayWorker, admin: socket.socket) -> None:
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
            self._switchboard.departed(worker)
            worker.ready.clear()
            pause_s = 0.0 if loop.time() - began > STEADY_S else min(
                max(FIRST_PAUSE_S, 2 * pause_s), LONGEST_PAUSE_S
            )  # fmt: skip
            self._log.error("worker died", worker=worker.number, status=status, pause_s=pause_s)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), pause_s)

    async def _run_once(self, worker: GatewayWorker, admin: socket.socket) -> int:
        """Start a worker's process, hear it out, and give the status that it ended with."""
        ours, theirs = socket.socketpair()
        public, control = worker.listener.fileno(), theirs.fileno()
        handed = (control, public, admin.fileno())
        with theirs:
            worker.process = process = subprocess.Popen(  # noqa: ASYNC220 nobody calls here
                [sys.executable, "-m", "gateway.one_worker", *map(str, handed)],
                pass_fds=handed,
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is the parent's to hear
            )
        worker.channel = channel = await Channel.over(ours)
        channel.send(Kind.SETTINGS, self._switchboard.settings)
        try:
            while (message := await channel.receive()) is not None:
                self._switchboard.hear(worker, *message)
        finally:
            channel.close()
            if not self._stop.is_set():
                # It listens again when its successor does; until then the others are connected to.
                worker.listener.shutdown(socket.SHUT_RDWR)
            if process.poll() is None and not self._stop.is_set():
                process.kill()  # it has let go of us, or we are cancelled
        return await asyncio.to_thread(process.wait)
