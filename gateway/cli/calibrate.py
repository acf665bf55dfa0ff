"""How is a new model brought up: does it answer well, how fast is it, what may be asked of it?"""

from collections.abc import Sequence

from autoscale import bringup
from gateway.cli.failure import CommandFailed


def main(arguments: Sequence[str]) -> int:
    """Hand over."""
    try:
        return bringup.measure(arguments)
    except bringup.Failed as error:
        raise CommandFailed(str(error), error.status) from error
