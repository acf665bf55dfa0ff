"""`python -m tests.chaos`: the long form, with its table; exit status 1 where a promise broke."""

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path

from tests.chaos.run import Plan, run


def main() -> int:
    """Run it once."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--jobs", type=int, default=Plan.jobs)
    parser.add_argument("--seed", type=int, default=Plan.seed)
    parser.add_argument("--workers", type=int, default=Plan.workers)
    parser.add_argument("--kill-every-s", type=float, default=Plan.kill_every_s)
    parser.add_argument("--replicas", type=int, default=Plan.replicas)
    parser.add_argument(
        "--until-ended",
        type=float,
        default=Plan.until_ended,
        help="share of the jobs that have ended when the killing stops; all are accepted then",
    )
    parser.add_argument(
        "--kills-within-s", type=float, default=Plan.kills_within_s, help="it stops then, anyway"
    )
    parser.add_argument(
        "--end-within-s", type=float, default=Plan.end_within_s, help="for the rest, in peace"
    )
    parser.add_argument("--directory", type=Path, help="kept afterwards; default: a temporary one")
    options = parser.parse_args()
    plan = Plan(
        jobs=options.jobs,
        seed=options.seed,
        workers=options.workers,
        kill_every_s=options.kill_every_s,
        replicas=options.replicas,
        until_ended=options.until_ended,
        kills_within_s=options.kills_within_s,
        end_within_s=options.end_within_s,
    )
    with tempfile.TemporaryDirectory(prefix="sluice-chaos-") as scratch:
        directory = options.directory or Path(scratch)
        directory.mkdir(parents=True, exist_ok=True)
        found = asyncio.run(run(plan, directory))
    print(found.table())
    return 1 if found.broken or found.share_made_twice >= 0.01 else 0


if __name__ == "__main__":
    sys.exit(main())
