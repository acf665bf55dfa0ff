"""Which jobs are there? They are shown, cancelled and put back by a gateway's admin API."""

import argparse
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

from gateway.cli.keys import table
from gateway.cli.options import add_admin, say
from gateway.cli.replicas import admin_api

ABOUT = "List, show, cancel and requeue videos and batches, through a gateway's admin API."


def main(arguments: Sequence[str]) -> int:
    """Do one of list, show, cancel and requeue."""
    options = _parser().parse_args(arguments)
    api = admin_api(options)
    if options.action == "list":
        found = api.ask("GET", f"/admin/jobs?state={options.state}&limit={options.limit}")
        if not options.json:
            return _list(found)
    elif options.action == "show":
        found = api.ask("GET", f"/admin/jobs/{quote(options.id, safe='')}")
    else:
        found = api.ask("POST", f"/admin/jobs/{quote(options.id, safe='')}/{options.action}")
        if not options.json:
            say(f"{options.action}: {found['id']} is {found['status']}")
            return 0
    print(json.dumps(found, indent=2))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="sluice jobs", description=ABOUT)
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    show = actions.add_parser("list", help="show jobs and how many wait")
    show.add_argument(
        "--state",
        choices=("live", "ended", "dead"),
        default="live",
        help="those that have not ended (default), that ended last, or that failed too often",
    )
    show.add_argument("--limit", type=int, default=50, metavar="N", help="most that are shown")
    every = [show]
    for action, text in (
        ("show", "tell all that is known of a job"),
        ("cancel", "end a job in whatever state it is"),
        ("requeue", "have a failed job done after all"),
    ):
        one = actions.add_parser(action, help=text)
        one.add_argument("id", help="its id")
        every.append(one)
    for each in every:
        add_admin(each)
    return parser


def _list(found: dict[str, Any]) -> int:
    head = ("ID", "KIND", "POOL", "CLASS", "STATUS", "PROGRESS", "CREATED", "TENANT", "WHY")
    print(table([head, *map(_row, found["data"])]))
    for name, pool in found["pools"].items():
        say(f"{name}: {pool['waiting']} wait, the oldest for {pool['oldest_s']:.0f} s")
    return 0


def _row(job: dict[str, Any]) -> tuple[str, ...]:
    created = datetime.fromtimestamp(job["created_at"], UTC).isoformat(timespec="seconds")
    why = job["error"]["code"] if job["error"] else "-"
    return (
        *(job["id"], job["kind"], job["pool"], job["class"], job["status"]),
        *(f"{job['progress']}%", created, job["tenant"], why),
    )
