"""How would a policy have done on recorded traffic?"""

from collections.abc import Sequence

from autoscale import commands, whatif
from autoscale.config import BadConfig
from autoscale.policy import BadPolicy
from autoscale.traces import BadTrace
from gateway.cli.failure import CommandFailed


def main(arguments: Sequence[str]) -> int:
    """Hand over."""
    try:
        return whatif.main(arguments)
    except (commands.Failed, BadConfig, BadPolicy, BadTrace, OSError) as error:
        raise CommandFailed(str(error), 2) from error
