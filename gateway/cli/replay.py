"""How would a policy have done on recorded traffic?"""

import argparse
from collections.abc import Sequence

from autoscale import commands, whatif
from autoscale.config import BadConfig
from autoscale.policy import BadPolicy
from autoscale.traces import BadTrace
from backends.slo import MLPERF_CLASSES, Class
from gateway.cli.failure import CommandFailed
from gateway.cli.options import add_config, read_settings


def main(arguments: Sequence[str]) -> int:
    """Hand over, with the classes of a gateway's file where one is named."""
    try:
        return whatif.main(arguments, add_config, _classes)
    except (commands.Failed, BadConfig, BadPolicy, BadTrace, OSError) as error:
        raise CommandFailed(str(error), 2) from error


def _classes(options: argparse.Namespace) -> Sequence[Class]:
    if options.config is None:
        return MLPERF_CLASSES
    return tuple(read_settings(options).classes_by_name().values())
