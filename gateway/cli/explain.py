"""Why did a call go where it went? Its decision record is told by a gateway's admin API."""

import argparse
import json
from collections.abc import Sequence
from urllib.parse import quote

from gateway.cli.options import add_admin
from gateway.cli.replicas import admin_api

ABOUT = "Tell why a call went where it went, through the admin API of a gateway."


def main(arguments: Sequence[str]) -> int:
    """Print one call's record, in words or as JSON."""
    options = _parser().parse_args(arguments)
    found = admin_api(options).ask("GET", f"/admin/calls/{quote(options.id, safe='')}")
    if options.json:
        print(json.dumps({k: v for k, v in found.items() if k != "words"}, indent=2))
    else:
        print(found["words"])
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="sluice explain", description=ABOUT)
    parser.add_argument("id", help="request id, as the answer's x-request-id header has it")
    add_admin(parser)
    return parser
