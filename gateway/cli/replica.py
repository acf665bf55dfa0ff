"""What does `sluice replica` start? One module per engine."""

import argparse
import importlib
from collections.abc import Sequence
from typing import cast

ENGINES = {
    "sglang": "gateway.cli.replica_sglang",
    "simulated": "gateway.cli.replica_simulated",
    "diffusion": "gateway.cli.replica_diffusion",
}


def main(arguments: Sequence[str]) -> int:
    """Hand over to the engine's module."""
    parser = argparse.ArgumentParser(
        prog="sluice replica",
        description="Start or adopt replicas, and keep their places in the registry.",
        epilog="`sluice replica ENGINE --help` tells more.",
    )
    parser.add_argument("engine", choices=ENGINES, metavar="ENGINE", help=" or ".join(ENGINES))
    parser.add_argument("rest", nargs=argparse.REMAINDER, metavar="...", help="what it is told")
    options = parser.parse_args(arguments)
    module = importlib.import_module(ENGINES[options.engine])
    return cast(int, module.main(options.rest))
