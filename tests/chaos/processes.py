"""Processes that die whenever it pleases chance, and come back."""

import asyncio
import contextlib
import os
import signal
import sys
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAUSE_S = 0.1


@dataclass
class Mortal:
    """One process of ours that is started again whenever it ends, until it is told to stay dead."""

    name: str
    words: tuple[str, ...]
    log: Path
    env: dict[str, str]
    deaths: int = 0
    _process: asyncio.subprocess.Process | None = None
    _task: asyncio.Task[None] | None = None
    _over: bool = field(default=False)

    def start(self) -> None:
        """Begin to live."""
        self._task = asyncio.create_task(self._live(), name=self.name)

    def kill(self) -> bool:
        """Die now; False when it is dead already."""
        process = self._process
        if process is None or process.returncode is not None:
            return False
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)
        self.deaths += 1
        return True

    async def end(self) -> None:
        """Die and stay dead."""
        self._over = True
        if self._process is not None and self._process.returncode is None:
            self._process.terminate()
        if self._task is not None:
            try:
                await asyncio.wait_for(asyncio.shield(self._task), 15)
            except TimeoutError:
                self.kill()
                await self._task

    async def _live(self) -> None:
        while not self._over:
            with self.log.open("ab") as output:
                self._process = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-m", "gateway.cli", *self.words),
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    env=self.env,
                    cwd=ROOT,
                )
            await self._process.wait()
            await asyncio.sleep(PAUSE_S)


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

    def kill(self) -> bool:
        """End it at once."""
        pid = self.pid()
        if pid is None:
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
