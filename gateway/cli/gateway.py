"""How does one gateway run by itself, with the store and the replicas elsewhere?"""

import argparse
import sys
from collections.abc import Callable, Sequence

from backends.store import StoreFailed, open_store
from backends.store_schema import WrongSchema
from gateway.cli.data_dir import DataDir
from gateway.cli.failure import CommandFailed
from gateway.cli.interrupts import Interrupts, run
from gateway.cli.options import (
    add_config,
    add_data_dir,
    add_redis_url,
    default_data_dir,
    read_settings,
    say,
)
from gateway.config import ConfigError
from gateway.listeners import Bound
from gateway.settings import Settings
from gateway.workers import WorkersFailed, serve_all

ABOUT = "Run one gateway; the store and the replicas are elsewhere. SIGTERM drains it."


def main(arguments: Sequence[str]) -> int:
    """Serve until a signal; the first drains, the second ends at once."""
    parser = argparse.ArgumentParser(prog="sluice gateway", description=ABOUT)
    add_config(parser)
    add_data_dir(parser)
    add_redis_url(parser)
    parser.add_argument("--host", help="address to listen on")
    parser.add_argument("--port", type=int, help="port of the API; 0: any free one")
    parser.add_argument("--admin-port", type=int, help="port of the admin API; 0: any free one")
    parser.add_argument("--workers", type=int, help="processes that serve the port (default: 1)")
    options = parser.parse_args(arguments)
    names = ("host", "port", "admin_port", "workers")
    flags = {name: getattr(options, name) for name in names}
    settings = read_settings(options, flags)

    def again() -> Settings:
        try:
            return read_settings(options, flags)
        except CommandFailed as error:
            raise ConfigError(str(error)) from error

    return run(lambda interrupts: _serve(settings, interrupts, again))


async def _serve(settings: Settings, interrupts: Interrupts, again: Callable[[], Settings]) -> int:
    data = DataDir(settings.data_dir or default_data_dir())
    try:
        async with open_store(settings.redis_url, data.store) as store:
            return await serve_all(
                settings,
                redis_url=store.url,
                on_ready=_announce,
                stop=interrupts.stop,
                again=again,
            )
    except (StoreFailed, WorkersFailed, WrongSchema, ConfigError, OSError) as error:
        raise CommandFailed(str(error)) from error


def _announce(bound: Bound) -> None:
    say(f"sluice gateway: {bound.base_url}, admin API {bound.admin_url}")
    sys.stderr.flush()
