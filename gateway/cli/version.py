"""Which version is installed?"""

import argparse
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

ABOUT = "Print the version that is installed."


def main(arguments: Sequence[str]) -> int:
    """Print it."""
    argparse.ArgumentParser(prog="sluice version", description=ABOUT).parse_args(arguments)
    print(installed())
    return 0


def installed() -> str:
    """Give the version of the distribution, `unknown` in a tree that was never installed."""
    try:
        return version("sluice")
    except PackageNotFoundError:
        return "unknown"
