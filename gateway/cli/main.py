"""Which module does what the command line asks?

Nothing but the standard library is imported until the subject is known, so that `--help` is quick
and a load test imports no gateway.
"""

import argparse
import importlib
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from gateway.cli.failure import USAGE, CommandFailed

OUR_PACKAGES = frozenset({"gateway", "backends", "autoscale", "loadtest"})


@dataclass(frozen=True, slots=True)
class Subject:
    """A module with `main(arguments) -> int`; `extra` is what its packages are installed by."""

    module: str
    help: str
    extra: str | None = None


SUBJECTS: Mapping[str, Subject] = {
    "up": Subject("gateway.cli.up", "start a store, replicas and a gateway here; Ctrl-C ends all"),
    "setup": Subject("gateway.cli.setup", "make the secrets of a deployment, once"),
    "gateway": Subject("gateway.cli.gateway", "run the gateway alone"),
    "check": Subject("gateway.cli.check", "print the settings that hold, or what is wrong"),
    "store": Subject("gateway.cli.store", "tell or raise the store's schema"),
    "keys": Subject("gateway.cli.keys", "create, list and revoke API keys"),
    "worker": Subject("gateway.cli.worker", "work on videos and batches"),
    "jobs": Subject("gateway.cli.jobs", "list, show, cancel and requeue videos and batches"),
    "replica": Subject("gateway.cli.replica", "start or adopt one replica and keep its lease"),
    "replicas": Subject("gateway.cli.replicas", "list, add, drain and remove a gateway's replicas"),
    "canary": Subject("gateway.cli.canary", "ask a replica what its model should know"),
    "explain": Subject("gateway.cli.explain", "tell why a call went where it went"),
    "openapi": Subject("gateway.cli.openapi", "print the OpenAPI document"),
    "autoscaler": Subject("gateway.cli.autoscaler", "scale replicas, or tell why", "autoscale"),
    "plan": Subject("gateway.cli.plan", "how many nodes does a rate need?", "autoscale"),
    "replay": Subject("gateway.cli.replay", "a policy on recorded traffic", "autoscale"),
    "calibrate": Subject(
        "gateway.cli.calibrate", "bring up a new replica: canary, speed, limits", "autoscale"
    ),
    "certify": Subject("loadtest.cli", "load-test a gateway: VALID or INVALID", extra="loadtest"),
    "version": Subject("gateway.cli.version", "print the version"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; give its exit status."""
    given = sys.argv[1:] if arguments is None else arguments
    if not given:
        _parser().print_help(sys.stderr)
        return USAGE
    options = _parser().parse_args(["version"] if given[0] == "--version" else given)
    subject = SUBJECTS[options.subject]
    try:
        return _load(options.subject, subject)(options.rest)
    except CommandFailed as failure:
        print(f"error: {failure}", file=sys.stderr)
        return failure.status
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `sluice check | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sluice",
        description="An OpenAI-compatible gateway for fleets of SGLang replicas.",
        epilog="`sluice COMMAND --help` tells more of a command.\n\ncommands:\n"
        + "\n".join(f"  {name:10} {each.help}" for name, each in SUBJECTS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("subject", choices=SUBJECTS, metavar="COMMAND", help="what to do")
    parser.add_argument(
        "rest", nargs=argparse.REMAINDER, metavar="...", help="what the command is told"
    )
    return parser


def _load(name: str, subject: Subject) -> Callable[[Sequence[str]], int]:
    try:
        module = importlib.import_module(subject.module)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if subject.extra is None or missing.partition(".")[0] in OUR_PACKAGES - {"loadtest"}:
            raise
        raise CommandFailed(
            f"`sluice {name}` needs packages that are not installed (missing: {missing}):"
            f" `make install` in a checkout, else pip install 'sluice[{subject.extra}]'",
            USAGE,
        ) from error
    return cast("Callable[[Sequence[str]], int]", module.main)
