"""Which secrets does a deployment need before its first gateway starts?

`sluice setup` makes the admin key and a first API key, and keeps both as files of the data
directory; what is there already stays. A deployment runs it before its gateways.
"""

import argparse
import asyncio
from collections.abc import Sequence

from redis import RedisError

from gateway.cli.data_dir import DataDir
from gateway.cli.failure import CommandFailed
from gateway.cli.keys import store_url
from gateway.cli.options import (
    add_config,
    add_data_dir,
    add_redis_url,
    default_data_dir,
    read_settings,
    say,
)
from gateway.cli.stack import ensure_key

ABOUT = (
    "Make the admin key and a first API key as files of the data directory; what is there "
    "already stays. A deployment runs it before its gateways."
)


def main(arguments: Sequence[str]) -> int:
    """Make what is missing; the keys themselves are printed nowhere."""
    parser = argparse.ArgumentParser(prog="sluice setup", description=ABOUT)
    add_config(parser)
    add_data_dir(parser)
    add_redis_url(parser)
    settings = read_settings(parser.parse_args(arguments))
    data = DataDir(settings.data_dir or default_data_dir())
    try:
        data.make()
        data.ensure_admin_key()
        asyncio.run(ensure_key(store_url(settings), data))
    except (RedisError, OSError) as error:
        raise CommandFailed(f"the secrets were not made: {error}") from error
    say(f"admin key: {data.admin_key}\nAPI key: {data.api_key}")
    return 0
