"""Which schema does the store have, and may it be raised?"""

import argparse
import asyncio
from collections.abc import Sequence

from redis.exceptions import RedisError

from backends.store import connect
from backends.store_schema import OLDEST, VERSION, WrongSchema, check_schema, migrate
from gateway.cli.failure import CommandFailed
from gateway.cli.keys import store_url
from gateway.cli.options import add_config, add_data_dir, add_redis_url, read_settings, say

ABOUT = "Show the schema of the store's data, or raise it to this version's."


def main(arguments: Sequence[str]) -> int:
    """Do one of show and migrate."""
    parser = argparse.ArgumentParser(prog="sluice store", description=ABOUT)
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    for name, text in (
        ("show", "tell the store's schema and those that this version reads"),
        ("migrate", "raise it to this version's, once no older gateway or worker runs"),
    ):
        action = actions.add_parser(name, help=text)
        add_config(action)
        add_data_dir(action)
        add_redis_url(action)
    options = parser.parse_args(arguments)
    return asyncio.run(_do(options.action, store_url(read_settings(options))))


async def _do(action: str, url: str) -> int:
    store = connect(url)
    try:
        if action == "migrate":
            done = await migrate(store)
            say("\n".join(done) if done else f"the store has schema {VERSION} already")
            return 0
        number = await check_schema(store)
        if number is None:
            raise CommandFailed("the store does not answer")
        say(f"the store has schema {number}; this version reads {OLDEST} to {VERSION}")
        if number < VERSION:
            say("raise it by `sluice store migrate` once no older gateway or worker runs")
        return 0
    except (WrongSchema, RedisError, OSError) as error:
        raise CommandFailed(str(error)) from error
    finally:
        await store.aclose()
