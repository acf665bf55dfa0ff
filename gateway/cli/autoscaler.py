"""How is the autoscaler run, and what did it decide?"""

import os
from collections.abc import Sequence
from pathlib import Path

from autoscale import commands
from gateway.cli.failure import CommandFailed
from gateway.cli.keys import store_url
from gateway.config import ConfigError, load


def main(arguments: Sequence[str]) -> int:
    """Hand over, with the store and the classes of the settings that hold."""
    try:
        path = os.environ.get("SLUICE_CONFIG")
        settings = load(None if path is None else Path(path), os.environ, {})
        classes = settings.classes_by_name()
        return commands.autoscaler(arguments, lambda: store_url(settings), classes)
    except ConfigError as error:
        raise CommandFailed(str(error), 2) from error
    except commands.Failed as error:
        raise CommandFailed(str(error), error.status) from error
