"""How many nodes does a rate need?"""

from collections.abc import Sequence

from autoscale import commands
from gateway.cli.failure import CommandFailed


def main(arguments: Sequence[str]) -> int:
    """Hand over."""
    try:
        return commands.plan(arguments)
    except commands.Failed as error:
        raise CommandFailed(str(error), error.status) from error
