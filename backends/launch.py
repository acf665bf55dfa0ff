"""How is a local server process started, watched and ended, with nothing left behind?"""

import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from backends.clock import Clock, SystemClock

_WARDEN = Path(__file__).with_name("warden.py")
_log = logging.getLogger(__name__)

Progress = Callable[[str], None]


class LaunchFailed(RuntimeError):
    """A process that would not start, or ended before it was ready; the message ends in its log."""


class LaunchGivenUp(LaunchFailed):
    """We were told to stop before the process served."""


@dataclass(frozen=True, slots=True)
class LaunchSpec:
    """What to start and how to tell that it serves.

    `env` is the whole environment of the process (None: ours). It serves once a GET of `url` and
    `ready_path` answers 200, within `ready_within_s`. After SIGTERM it has `stop_grace_s` to end
    (an engine that drains needs as long as its longest call); after our own sudden end, 5 s.
    """

    name: str
    argv: Sequence[str]
    url: str
    log_path: Path
    env: Mapping[str, str] | None = field(default=None, repr=False)
    cwd: Path | None = None
    ready_path: str = "/ready"
    ready_within_s: float = 900.0
    stop_grace_s: float = 30.0


class Launched:
    """A process that we started; made by `running` and `launched`."""

    def __init__(self, spec: LaunchSpec, warden: asyncio.subprocess.Process, pid: int) -> None:
        self.spec = spec
        self.pid = pid
        self._warden = warden

    @property
    def returncode(self) -> int | None:
        """Its exit status (128 + n after signal n); None while it runs."""
        return self._warden.returncode

    async def wait(self) -> int:
        """Wait for its end and that of all that it started; give its exit status."""
        return await self._warden.wait()

    async def stop(self) -> int:
        """SIGTERM, the grace, SIGKILL to its whole tree; give the exit status."""
        self._signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(self.spec.stop_grace_s + 10.0):
                return await self._warden.wait()
        except TimeoutError:
            _log.warning("%s outlived its warden's patience", self.spec.name)
            self.kill()
            return await self._warden.wait()

    def kill(self) -> None:
        """End it and its process group at once."""
        if self.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)

    def log_tail(self, lines: int = 20) -> str:
        """Give the end of its log."""
        return _tail(self.spec.log_path, lines)

    def _signal(self, number: int) -> None:
        if self.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._warden.send_signal(number)


@contextlib.asynccontextmanager
async def running(spec: LaunchSpec, *, held_fds: Sequence[int] = ()) -> AsyncIterator[Launched]:
    """Start a process, ready or not, and end it on leaving; raises LaunchFailed.

    It has a session of its own, so that a terminal's interrupt does not reach it, and a warden that
    ends it with all that it started when our process is gone, however that ended. `held_fds` stay
    open for as long as the warden lives (file locks).
    """
    spec.log_path.parent.mkdir(parents=True, exist_ok=True)
    grace = ("--grace", str(spec.stop_grace_s), "--log", str(spec.log_path))
    warden = await asyncio.create_subprocess_exec(
        *(sys.executable, "-I", "-S", str(_WARDEN), *grace, "--", *spec.argv),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env=spec.env,
        cwd=spec.cwd,
        start_new_session=True,
        pass_fds=tuple(held_fds),
    )
    try:
        pid = await _pid(spec, warden)
        process = Launched(spec, warden, pid)
        try:
            yield process
        finally:
            await process.stop()
    finally:
        await _let_go(warden)


@contextlib.asynccontextmanager
async def launched(
    spec: LaunchSpec,
    *,
    on_progress: Progress | None = None,
    give_up: asyncio.Event | None = None,
    clock: Clock | None = None,
) -> AsyncIterator[Launched]:
    """Start a server, give it once it serves, end it on leaving; raises LaunchFailed.

    Setting `give_up` before it serves ends it and raises LaunchGivenUp.
    """
    async with running(spec) as process:
        never = asyncio.Event()
        await _until_ready(
            process, on_progress or _silent, give_up or never, clock or SystemClock()
        )
        yield process


async def _pid(spec: LaunchSpec, warden: asyncio.subprocess.Process) -> int:
    assert warden.stdout is not None  # noqa: S101 - asked for above
    line = (await warden.stdout.readline()).decode(errors="replace").strip()
    word, _, rest = line.partition(" ")
    if word != "pid":
        await warden.wait()
        raise LaunchFailed(f"{spec.name} did not start: {rest or 'no word from its warden'}")
    return int(rest)


async def _let_go(warden: asyncio.subprocess.Process) -> None:
    """Close the pipe that keeps the child alive and wait for the warden, even when cancelled."""
    if warden.stdin is not None:
        warden.stdin.close()
    await asyncio.shield(warden.wait())


async def _until_ready(
    process: Launched, on_progress: Progress, give_up: asyncio.Event, clock: Clock
) -> None:
    spec = process.spec
    started_at = said_at = clock.monotonic()
    timeout = aiohttp.ClientTimeout(total=5.0)
    async with aiohttp.ClientSession(timeout=timeout, auto_decompress=False) as session:
        while not await _serves(session, spec.url + spec.ready_path):
            now = clock.monotonic()
            if give_up.is_set():
                raise LaunchGivenUp(f"{spec.name} was told to stop before it served.")
            log = f"its log ({spec.log_path}) ends:\n{process.log_tail()}"
            if process.returncode is not None:
                raise LaunchFailed(
                    f"{spec.name} ended ({process.returncode}) before it served; {log}"
                )
            if now - started_at > spec.ready_within_s:
                raise LaunchFailed(
                    f"{spec.name} did not serve in {spec.ready_within_s:.0f} s; {log}"
                )
            if now - said_at >= 5.0:
                said_at = now
                on_progress(f"{spec.name}: {now - started_at:.0f} s. {process.log_tail(1)[:160]}")
            await clock.sleep(0.2)
    on_progress(f"{spec.name}: serves after {clock.monotonic() - started_at:.1f} s")


async def _serves(session: aiohttp.ClientSession, url: str) -> bool:
    try:
        async with session.get(url, allow_redirects=False) as answer:
            return answer.status == 200
    except (aiohttp.ClientError, TimeoutError, OSError):
        return False


def _tail(path: Path, lines: int) -> str:
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 16_384))
            text = file.read().decode(errors="replace")
    except OSError as error:
        return str(error)
    return "\n".join(text.splitlines()[-lines:])


def _silent(_message: str) -> None:
    """Tell nobody."""
