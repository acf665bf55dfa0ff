"""How does one gateway run by itself, with the store and the replicas elsewhere?"""

import argparse
import sys
from collections.abc import Sequence

from backends.store import StoreFailed, open_store
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
from gateway.server import Bound, serve
from gateway.settings import Settings


def main(arguments: Sequence[str]) -> int:
    """Serve until a signal; the first drains, the second ends at once."""
    parser = argparse.ArgumentParser(prog="sluice gateway", description=__doc__)
    add_config(parser)
    add_data_dir(parser)
    add_redis_url(parser)
    parser.add_argument("--host", help="address to listen on")
    parser.add_argument("--port", type=int, help="port of the API; 0: any free one")
    parser.add_argument("--admin-port", type=int, help="port of the admin API; 0: any free one")
    parser.add_argument("--workers", type=int, help="reserved; run more gateways for more")
    options = parser.parse_args(arguments)
    names = ("host", "port", "admin_port", "workers")
    settings = read_settings(options, {name: getattr(options, name) for name in names})
    return run(lambda interrupts: _serve(settings, interrupts))


async def _serve(settings: Settings, interrupts: Interrupts) -> int:
    data = DataDir(settings.data_dir or default_data_dir())
    try:
        async with open_store(settings.redis_url, data.store) as store:
            return await serve(
                settings, redis_url=store.url, on_ready=_announce, stop=interrupts.stop
            )
    except (StoreFailed, OSError) as error:
        raise CommandFailed(str(error)) from error


def _announce(bound: Bound) -> None:
    say(f"sluice gateway: {bound.base_url}, admin API {bound.admin_url}")
    sys.stderr.flush()
