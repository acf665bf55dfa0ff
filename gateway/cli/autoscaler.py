"""How is the autoscaler run, and what did it decide?"""

import argparse
from collections.abc import Mapping, Sequence

from autoscale import commands
from backends.slo import Class
from gateway.cli.failure import CommandFailed
from gateway.cli.keys import store_url
from gateway.cli.options import add_config, add_data_dir, add_redis_url, read_settings


def main(arguments: Sequence[str]) -> int:
    """Hand over, with the store and the classes of the settings that hold."""
    try:
        return commands.autoscaler(arguments, _add_common, _where)
    except commands.Failed as error:
        raise CommandFailed(str(error), error.status) from error


def _add_common(parser: argparse.ArgumentParser) -> None:
    add_config(parser)
    add_data_dir(parser)
    add_redis_url(parser)


def _where(options: argparse.Namespace) -> tuple[str, Mapping[str, Class]]:
    settings = read_settings(options)
    return store_url(settings), settings.classes_by_name()
