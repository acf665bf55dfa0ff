"""What does `sluice certify` do with its arguments?

Exit codes: 0 VALID (or a smoke run whose path works), 1 INVALID, 2 could not judge.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from loadtest import certify, compare, plan, report, results, scenario, search
from loadtest.judgement import Verdict
from loadtest.launch import Generators
from loadtest.manifest import Admin
from loadtest.options import RunOptions, add_run_options
from loadtest.progress import Terminal
from loadtest.results import Outcomes

VALID, INVALID, UNJUDGED = 0, 1, 2
_SMOKE_QUERIES = 20


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; give its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == ["compare"]:
        return compare.main(arguments[1:])
    if arguments[:1] == ["list"]:
        for model, names in scenario.known().items():
            print(f"{model}: {', '.join(names)}")
        return VALID
    options = _parser().parse_args(arguments)
    try:
        return _certify(options)
    except (ValueError, certify.CannotJudge, OSError) as error:
        print(f"certify: {error}", file=sys.stderr)
        return UNJUDGED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sluice certify",
        description="Load-test an OpenAI-compatible endpoint and give MLPerf's verdict.",
        epilog="Also: `certify compare A B` (do two runs agree?) and `certify list` (scenarios).",
    )
    add_run_options(parser)
    add = parser.add_argument
    add("--base-url", default="http://127.0.0.1:8000/v1", help="the endpoint, up to /v1")
    add("--workers", type=int, default=1, help="generator processes on this machine")
    add("--remote-workers", type=int, default=0, help="wait for so many workers elsewhere")
    add("--bind", default="0.0.0.0:5557", help="where the master listens for them")
    add("--smoke", action="store_true", help="a short run that checks the path; never VALID")
    add("--search", action="store_true", help="find the highest rate that is VALID")
    add("--search-precision", type=float, default=0.02, help="relative width to stop at")
    add("--admin-url", default="", help="a Sluice gateway's admin API, asked for its replicas")
    add("--quiet", action="store_true", help="no progress on the terminal")
    return parser


def _certify(options: argparse.Namespace) -> int:
    run = RunOptions.of(options)
    run = replace(run, api_key=run.api_key or os.environ.get("SLUICE_API_KEY", ""))
    if options.smoke:
        run = _smoke(run)
    out = Path(run.out or f"certify-{time.strftime('%Y%m%d-%H%M%S')}")
    run = replace(run, out="")
    terminal = Terminal(quiet=options.quiet)
    admin = Admin(options.admin_url, os.environ.get("SLUICE_ADMIN_KEY", ""))
    generators = Generators(options.workers, options.remote_workers, options.bind)
    reaches = not options.remote_workers  # else it is they who have to
    with certify.interrupts() as asked:
        if options.search:
            if reaches:
                certify.reach(options.base_url)
            bench = search.Bench(options.base_url, out, generators, terminal, asked, admin)
            return search.command(run, bench, options.search_precision)
        made = plan.make(run)
        if reaches:
            certify.reach(options.base_url)
        _announce(made, terminal)
        found = certify.certify(
            made,
            options.base_url,
            out,
            generators,
            terminal,
            asked,
            smoke=options.smoke,
            admin=admin,
        )
    report.write(out, found)
    tell(found, out)
    return code_of(found)


def _smoke(run: RunOptions) -> RunOptions:
    """Shorten a run to a few queries."""
    rate = max(run.target_qps, 0.1)
    seconds = min(10.0, _SMOKE_QUERIES / rate)
    samples = min(run.samples or _SMOKE_QUERIES, _SMOKE_QUERIES)
    return replace(
        run,
        duration=min(run.duration or seconds, seconds),
        samples=samples,
        min_queries=min(run.min_queries or 10, 10),
    )


def _announce(made: plan.Plan, terminal: Terminal) -> None:
    queries = "queries until the minimum duration"
    if not made.schedule.closed_loop:
        queries = f"{len(made.schedule)} queries at {made.options.target_qps:g}/s"
    terminal.tell(f"{made.scenario.model} {made.scenario.name}: {queries}, {made.dataset.name}")
    for text in made.deviations:
        terminal.tell(f"  not MLPerf's run: {text}")


def code_of(found: Outcomes) -> int:
    """Turn a verdict into the exit code."""
    match found.judgement.verdict:
        case Verdict.VALID:
            return VALID
        case Verdict.INVALID:
            return INVALID
        case Verdict.SMOKE:
            return INVALID if certify.smoke_failures(found.judgement) else VALID
        case Verdict.INCOMPLETE:
            return UNJUDGED


def tell(found: Outcomes, out: Path) -> None:
    """Print the verdict with every reason."""
    judgement = found.judgement
    head = results.headline(judgement)
    print(f"{judgement.verdict}  {head['value']:.6g} {head['unit']}")
    if judgement.verdict is Verdict.SMOKE:
        failures = certify.smoke_failures(judgement)
        print("  the path works" if not failures else "  the path does not work")
        for text in failures:
            print(f"  - {text}")
    else:
        for reason in judgement.reasons:
            print(f"  - {reason.text}")
    for text in filter(None, (*judgement.warnings, found.status.get("why"))):
        print(f"  ! {text}")
    for text, count in found.status.get("errors", {}).items():
        print(f"  ! {count} x {text}")
    print(f"  {out / results.REPORT}")
