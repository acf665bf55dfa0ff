"""Which settings hold, and where does what is wrong stand?"""

import argparse
from collections.abc import Sequence

from gateway.cli.options import add_config, read_settings
from gateway.config import effective
from gateway.config_reference import reference

ABOUT = (
    "Print the settings that hold, with secrets masked; or, with status 2, what is wrong and where."
)


def main(arguments: Sequence[str]) -> int:
    """Print the settings with secrets masked; status 2 and a line per fault when they are wrong."""
    parser = argparse.ArgumentParser(prog="sluice check", description=ABOUT)
    add_config(parser)
    parser.add_argument(
        "--reference", action="store_true", help="print all settings that there are (Markdown)"
    )
    options = parser.parse_args(arguments)
    if options.reference:
        print(reference(), end="")
        return 0
    print(effective(read_settings(options)), end="")
    return 0
