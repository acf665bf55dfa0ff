"""How do replicas of this process come into service, stay in the registry, and leave it?"""

import argparse
import asyncio
import secrets
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from backends.fleet import Replica
from backends.launch import LaunchFailed, LaunchSpec
from backends.proving import Unproven
from backends.tenure import serve_replica
from gateway.cli.data_dir import read_secret
from gateway.cli.failure import USAGE, CommandFailed
from gateway.cli.interrupts import Interrupts, run
from gateway.cli.options import add_config, add_data_dir, add_redis_url, say

FIRST_PORT, LAST_PORT = 20_000, 32_000
MOST_TRIES = 100
WILDCARDS = frozenset({"0.0.0.0", "::"})  # noqa: S104 compared, not bound


@dataclass(frozen=True, slots=True)
class Service:
    """What is to be in service: replicas, and the process behind them unless it runs elsewhere.

    `restart` starts one of them again, by its id, where they are in this process. `prove` raises
    Unproven where one must not be registered.
    """

    replicas: tuple[Replica, ...]
    spec: LaunchSpec | None = None
    restart: Callable[[str], None] | None = None
    prove: Callable[[Replica], Awaitable[object]] | None = None


def hold(
    begin: Callable[[], AbstractAsyncContextManager[Service]],
    store_url: str,
    *,
    drain_s: float,
    load_s: float = 0.0,
    ready_file: Path | None = None,
) -> int:
    """Keep the leases of what `begin` gives until a signal or an operator's removal.

    The first signal lets calls finish, the second ends at once. `load_s` is how long it takes until
    `begin` is asked, as an engine's weights take to load. `ready_file` is there while the leases
    are held. Gives the exit status.
    """

    def is_ready(service: Service) -> None:
        if ready_file is not None:
            ready_file.touch()
        say(f"in service: {', '.join(r.id for r in service.replicas)}")

    async def serve(interrupts: Interrupts) -> int:
        with suppress(TimeoutError):
            await asyncio.wait_for(interrupts.stop.wait(), load_s)
        if interrupts.stop.is_set():
            return 0
        async with begin() as service:
            await serve_replica(
                service.spec,
                service.replicas,
                store_url,
                stop=interrupts.stop,
                drain_within_s=drain_s,
                on_progress=say,
                on_restart=service.restart,
                prove=service.prove,
                on_ready=lambda: is_ready(service),
            )
        return 0

    try:
        if ready_file is not None:
            ready_file.unlink(missing_ok=True)  # of an earlier one, that was killed
        return run(serve)
    except (LaunchFailed, Unproven, OSError) as error:
        raise CommandFailed(str(error)) from error
    finally:
        if ready_file is not None:
            with suppress(OSError):
                ready_file.unlink(missing_ok=True)


@asynccontextmanager
async def given(service: Service) -> AsyncIterator[Service]:
    """Give a service that needs nothing before it."""
    yield service


def engine_key(options: argparse.Namespace) -> str | None:
    """Read the engine's API key. Raises CommandFailed where its file has none."""
    if options.api_key_file is None:
        return None
    key = read_secret(options.api_key_file)
    if key is None:
        raise CommandFailed(f"--api-key-file: {options.api_key_file} is missing or empty", USAGE)
    return key


def add_common(parser: argparse.ArgumentParser) -> None:
    """Ask what is the same for every engine."""
    parser.add_argument("--site", default="local", help="where it stands")
    parser.add_argument(
        "--drain-s", type=float, default=600.0, help="time for its calls to finish (default: 600)"
    )
    parser.add_argument(
        "--ready-file", type=Path, metavar="F", help="is there while it is in service"
    )
    add_redis_url(parser)
    add_config(parser)
    add_data_dir(parser)


def advertised(host: str) -> str:
    """Give the host by which others reach a server that is bound to `host`.

    Nobody reaches a wildcard address: this machine's own name stands for it, which inside a
    container is its id, and the container network knows it.
    """
    return socket.gethostname() if host in WILDCARDS else host


def reached_by(url: str, host: str) -> str:
    """Put a host in the place of the one that a URL names."""
    shown = f"[{host}]" if ":" in host else host
    return f"http://{shown}:{url.rpartition(':')[2]}"


def free_ports(host: str, count: int) -> int:
    """Find `count` ports in a row that nobody listens on now; give the first.

    Below the range from which the system takes ports for connections: a port that is free now is
    then most likely still free when a process of ours comes to listen there.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for _ in range(MOST_TRIES if count <= LAST_PORT - FIRST_PORT else 0):
        first = FIRST_PORT + secrets.randbelow(LAST_PORT - FIRST_PORT - count + 1)
        with ExitStack() as stack:
            try:
                for port in range(first, first + count):
                    stack.enter_context(socket.socket(family)).bind((host, port))
            except OSError:
                continue
            return first
    raise CommandFailed(f"found no {count} free ports in a row on {host}")
