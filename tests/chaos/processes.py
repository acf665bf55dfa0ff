"""Processes that die whenever it pleases chance, and come back."""

import asyncio
import contextlib
import os
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[2]
PAUSE_S = 0.1


@dataclass
class Mortal:
    """One process of ours that is started again whenever it ends, until it is told to stay dead."""

    name: str
    argv: tuple[str, ...]
    log: Path
    env: dict[str, str]
    port: int
    deaths: int = 0
    _process: asyncio.subprocess.Process | None = None
    _task: asyncio.Task[None] | None = None
    _over: asyncio.Event = field(default_factory=asyncio.Event)
    _ready: float | None = None

    @property
    def is_alive(self) -> bool:
        """Whether there is a process."""
        return self._process is not None and self._process.returncode is None

    def start(self) -> None:
        """Begin to live."""
        self._task = asyncio.create_task(self._live(), name=self.name)

    def kill(self, *, least_age_s: float = 0.0) -> bool:
        """Die now; False when it is dead already, or too young to have done anything yet."""
        process = self._process
        if process is None or process.returncode is not None:
            return False
        if self._ready is None or time.monotonic() - self._ready < least_age_s:
            return False
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)
        self.deaths += 1
        return True

    async def end(self, *, grace_s: float = 15.0) -> None:
        """Die and stay dead: when asked, or else by force, whether it has ever served or not."""
        self._over.set()
        self._signal(signal.SIGTERM)
        if self._task is None:
            return
        await asyncio.wait({self._task}, timeout=grace_s)
        while not self._task.done():  # the signal is sent again: it may be just being started
            self._signal(signal.SIGKILL)
            await asyncio.wait({self._task}, timeout=0.5)
        await self._task

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self.is_alive:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)

    async def _live(self) -> None:
        while not self._over.is_set():
            with self.log.open("ab") as output:
                self._process = await asyncio.create_subprocess_exec(
                    *self.argv,
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    env=self.env,
                    cwd=ROOT,
                )
            if self._over.is_set():  # it was told while this one was being started
                self._signal(signal.SIGTERM)
            looking = asyncio.create_task(self._look())
            await self._process.wait()
            looking.cancel()
            self._ready = None
            await asyncio.sleep(PAUSE_S)

    async def _look(self) -> None:
        """Note when it serves: it is not killed before, since it has done nothing yet."""
        while self._ready is None:
            await asyncio.sleep(0.2)
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", self.port)
            except OSError:
                continue
            writer.close()
            self._ready = time.monotonic()


@dataclass
class StoreProcess:
    """The store's server, found by the socket that it listens on."""

    data_dir: Path
    kills: int = 0
    pauses: int = 0

    def pid(self) -> int | None:
        """Find it; None while it is down."""
        wanted = str(self.data_dir / "store.sock").encode()
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if b"--unixsocket" in words and wanted in words and b"--grace" not in words:
                return int(entry.name)
            # A server that has set its title shows its binary and its socket.
            if words and b"server" in words[0] and wanted in words[0]:
                return int(entry.name)
        return None

    def kill(self, *, least_age_s: float = 0.0) -> bool:
        """End it at once; False when it is down, or has not been up for long."""
        pid = self.pid()
        try:
            if pid is None or time.time() - psutil.Process(pid).create_time() < least_age_s:
                return False
        except psutil.NoSuchProcess:
            return False
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        self.kills += 1
        return True

    async def pause(self, seconds: float) -> bool:
        """Have it answer nobody for a while, as a partition does."""
        pid = self.pid()
        if pid is None:
            return False
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
            try:
                await asyncio.sleep(seconds)
            finally:
                os.kill(pid, signal.SIGCONT)
        self.pauses += 1
        return True
