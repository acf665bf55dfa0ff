"""How does our policy compare with other autoscalers and with perfect knowledge?

`python -m autoscale.bench --traces DIR` tunes every rule with the same budget of trials on the
first days of the development traces, freezes it, runs the weeks and prints the table. Without
`--traces` it runs on a synthetic fleet that anybody may have.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from autoscale import one_fleet, request_rows
from autoscale.baselines import CONTENDERS
from autoscale.contest import BOUND, Case, Job, Result, Setting, run_job, tune
from autoscale.contest_table import table
from autoscale.demand import Reconstruction
from autoscale.fleets import SERVEGEN
from autoscale.fluid import Faults
from autoscale.pareto import draw, spots_of
from autoscale.policy import PRESETS

TARGETS = (0.99, 0.995)
OURS = {0.99: PRESETS["saving"], 0.995: PRESETS["balanced"], 0.999: PRESETS["careful"]}
BOUNDS = tuple(
    Setting(BOUND, (("attainment", target),), title=f"{BOUND}, {target:.1%}") for target in TARGETS
)
ROWS = {"s5": one_fleet.rows, **dict.fromkeys(request_rows.ROWS, request_rows.rows)}
FAULTS: Mapping[str, Faults] = {
    "15 % slower than believed": Faults(speed=0.85),
    "the same, never learnt": Faults(speed=0.85, speed_is_learnt=False),
    "lengths unknown (sigma 0.2)": Faults(length_error=0.2),
    "a node lost every 6 h": Faults(loss_every_s=21_600.0),
    "5 % of starts at half speed": Faults(slow_share=0.05),
    "5 % of starts fail": Faults(failed_share=0.05),
    "signals stale 30 s every 10 min": Faults(stale_every_s=600.0, stale_s=30.0),
}


def contenders(
    options: argparse.Namespace, cases: Sequence[Case], pool: ProcessPoolExecutor
) -> Iterator[tuple[float, Setting]]:
    """Give every rule with its frozen parameters, by cold start."""
    days = {"to_day": options.tuning_days}
    tuning = [replace(case, **days) for case in cases if case.how is Reconstruction.STEP]
    for cold in options.cold_start:
        if options.bounds:
            yield from ((cold, each) for each in BOUNDS)
            continue
        for target, policy in OURS.items():
            yield cold, Setting(f"ours, {target:.1%}", policy=policy)
        if options.ours:
            continue
        yield from ((cold, each) for each in BOUNDS)
        for name in ("static peak", "static p99.9"):
            yield cold, Setting(name)
        for name in CONTENDERS:
            tuned = tune(
                name,
                tuning,
                attainments=TARGETS,
                cold_start_s=cold,
                trials=options.trials,
                pool=pool,
            )
            for target, found in tuned.items():
                yield cold, replace(found, title=f"{name}, {target:.1%}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="sluice bench-autoscale", description=__doc__)
    add = parser.add_argument
    add("--traces", type=Path, help="directory of ServeGen client files; without it: synthetic")
    add("--fleet", action="append", help="default: m-large m-mid m-small")
    add("--cold-start", type=float, action="append", help="seconds; default: 60 240 600")
    add("--how", action="append", choices=[*Reconstruction], help="default: step and smooth")
    add("--seeds", type=int, default=1, help="how many seeds (default: 1)")
    add("--trials", type=int, default=50, help="of tuning, for every rule alike (default: 50)")
    add("--tuning-days", type=float, default=1.5)
    add("--days", type=float, nargs=2, default=(0.0, 7.0), metavar=("FROM", "TO"))
    add("--mean-units", type=float, default=30.0)
    add("--ours", action="store_true", help="our policy alone")
    add("--bounds", action="store_true", help="what online rules cannot go below, alone")
    add("--faults", action="store_true", help="our policy with each fault as well")
    add("--rows", choices=sorted(ROWS), help="another comparison instead of the contest of rules")
    add("--preset", action="append", choices=tuple(PRESETS), help="for --rows; default: balanced")
    add("--policy", action="append", help="s4, s6, s7: one more rule, such as HPA or static:N")
    add("--seconds", type=float, default=1740.0, help="s4, s6, s7: how much of the trace")
    add(
        "--units",
        type=int,
        help="s4, s6, s7: units at first; default: for the first start",
    )
    add("--video-units", type=float, default=6.0, help="s5: mean units of video work")
    add("--video-s", type=float, default=27.38, help="s5: seconds of one video on one unit")
    add("--video-within", type=float, default=21_600.0, help="s5: a video's deadline in seconds")
    add("--swap", type=float, default=60.0, help="s5: seconds that changing an empty unit takes")
    add("--processes", type=int, default=1)
    add("--out", type=Path, help="write results as JSON")
    add("--plot", type=Path, help="draw attainment against cost, a panel per fleet (PNG)")
    add("--results", type=Path, help="draw what an earlier run wrote with --out; runs nothing")
    return parser


def main(arguments: Sequence[str]) -> int:
    """Run the benchmark and print its table."""
    parser = _parser()
    options = parser.parse_args(arguments)
    options.cold_start = options.cold_start or [60.0, 240.0, 600.0]
    if options.results is not None:
        if options.plot is None:
            parser.error("--results needs --plot")
        _draw(json.loads(options.results.read_text(encoding="utf-8")), options)
        return 0
    fleets = options.fleet or (SERVEGEN if options.traces else ("synthetic",))
    hows = [Reconstruction(h) for h in options.how or Reconstruction]
    cases = [
        Case(
            str(options.traces or ""),
            fleet,
            how,
            mean_units=options.mean_units,
            from_day=options.days[0],
            to_day=options.days[1],
        )
        for fleet in fleets
        for how in (hows if fleet != "synthetic" else hows[:1])
    ]
    with ProcessPoolExecutor(options.processes) as pool:
        if options.rows is not None:
            options.preset = options.preset or ["balanced"]
            print(ROWS[options.rows](options, cases, pool))
            return 0
        results = _measured(options, cases, pool)
        print(table(results))
        if options.faults:
            print("\nWith faults (ours, balanced):\n")
            print(_with_faults(cases, options.cold_start[0], pool))
    found = [asdict(each) for each in results]
    if options.out is not None:
        options.out.write_text(json.dumps(found, indent=1, default=str), encoding="utf-8")
    if options.plot is not None:
        _draw(found, options)
    return 0


def _draw(results: Sequence[Mapping[str, Any]], options: argparse.Namespace) -> None:
    """Draw the cold start of 240 s where it was run, else the first."""
    cold = 240.0 if 240.0 in options.cold_start else options.cold_start[0]
    draw(spots_of(results, cold), options.plot, title=f"cold start {cold:.0f} s")


def _measured(
    options: argparse.Namespace, cases: Sequence[Case], pool: ProcessPoolExecutor
) -> list[Result]:
    jobs: list[Job] = []
    for cold, setting in contenders(options, cases, pool):
        print(f"D {cold:.0f} s: {setting.rule} {dict(setting.values)}", file=sys.stderr, flush=True)
        jobs += [
            (replace(case, seed=11 + seed), setting, cold, None, 1 + seed)
            for seed in range(options.seeds)
            for case in cases
        ]
    jobs.sort(key=lambda job: (job[0].fleet, job[0].how, job[0].seed))
    return list(_ordered(pool.map(run_job, jobs, chunksize=4)))


def _ordered(results: Iterator[Result]) -> Iterator[Result]:
    """Tell each result as it comes."""
    for result in results:
        print(
            f"{result.setting.label} {result.case.fleet} {result.case.how}"
            f" D {result.cold_start_s:.0f}:"
            f" {result.attainment:.4f} at {result.ratio:.3f}, {result.wall_s:.1f} s",
            file=sys.stderr,
            flush=True,
        )
        yield result


def _with_faults(cases: Sequence[Case], cold: float, pool: ProcessPoolExecutor) -> str:
    jobs: list[Job] = []
    for name, faults in FAULTS.items():
        setting = Setting(name, policy=PRESETS["balanced"])
        jobs += [(case, setting, cold, faults, 1) for case in cases]
    return table(list(pool.map(run_job, jobs)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
