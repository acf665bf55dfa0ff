"""Does a replica answer as its model should? `sluice canary` asks, and tells what it said."""

import argparse
import asyncio
from collections.abc import Sequence
from pathlib import Path

from backends.canary import Canary, CanaryFileError, read, shipped
from backends.fleet import Replica
from backends.proving import examine
from gateway.cli.failure import USAGE, CommandFailed
from gateway.cli.options import say
from gateway.cli.replica_service import engine_key

ABOUT = "Ask a replica questions that its model should know; status 1 where it does not pass."

OFF = "off"


def main(arguments: Sequence[str]) -> int:
    """Ask one replica; status 1 where it does not pass."""
    options = _parser().parse_args(arguments)
    canary = canary_of(options.canary, options.model)
    if canary is None:
        raise CommandFailed(
            f"no canary is known for {options.model!r}: give one by --canary", USAGE
        )
    replica = Replica(
        id=options.replica,
        model=options.model,
        url=options.replica,
        served_name=options.served_name,
        api_key=engine_key(options),
    )
    findings = asyncio.run(examine(replica, canary))
    say(findings.told())
    return 0 if findings.is_passed else 1


def add_canary(parser: argparse.ArgumentParser) -> None:
    """Ask which canary a replica must pass."""
    parser.add_argument(
        "--canary",
        metavar="FILE",
        help="questions that it must answer before it serves; `off`: none (default: those that come"
        " with Sluice for the model, if any)",
    )


def canary_of(given: str | None, model: str) -> Canary | None:
    """Give the canary that is asked for, or the model's own; None where there is none."""
    if given == OFF:
        return None
    try:
        return shipped(model) if given is None else read(Path(given))
    except CanaryFileError as error:
        raise CommandFailed(f"--canary: {error}", USAGE) from error


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="sluice canary", description=ABOUT)
    parser.add_argument("--replica", required=True, metavar="URL", help="base URL of the engine")
    parser.add_argument("--model", required=True, help="public id of the model")
    parser.add_argument("--served-name", help="the model's name inside the engine")
    add_canary(parser)
    parser.add_argument("--api-key-file", type=Path, help="file that holds the engine's API key")
    return parser
