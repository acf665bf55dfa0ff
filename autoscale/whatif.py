"""What if this traffic met that policy? `sluice replay` on a recorded trace."""

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from autoscale.baselines import CONTENDERS, StaticPeak
from autoscale.demand import TICK_S, DemandSeries, Reconstruction, from_arrivals
from autoscale.fleets import INTERACTIVE_SHARE, UNIT, Unit, units_of
from autoscale.fluid import Scaler, World
from autoscale.fluid import replay as fluid
from autoscale.forecast import load_weights
from autoscale.oracle import perfect
from autoscale.policy import PRESETS, BadPolicy
from autoscale.replay.kind import Kind
from autoscale.replay.sites_file import read_sites
from autoscale.replay.world import replay
from autoscale.scaler import PoolScaler
from autoscale.shared_world import JOBS_POLICY, Jobs, SharedWorld, again, replay_shared
from autoscale.sharing import JobsScaler
from autoscale.traces import FORMATS, Arrival, drawn, read_arrivals, read_servegen
from backends.capacity import Mix, work_s
from backends.hardware import profile
from backends.slo import MLPERF_CLASSES, Class

# Longer windows run as a fluid unless the level is asked for.
REQUEST_LEVEL_S = 3600.0


def scaler_named(
    name: str, series: DemandSeries, cold_start_s: float, *, tenants: int | None = None
) -> Scaler:
    """Make a policy by name: a preset, a baseline, `static:N`; raises BadPolicy."""
    if name in PRESETS:
        count = len(series.tenants) if tenants is None else tenants
        return PoolScaler(count, PRESETS[name], weights=load_weights(), cold_start_s=cold_start_s)
    kind, _, number = name.partition(":")
    if kind == "static":
        peak = math.ceil(float(series.total_s.max()))
        return StaticPeak(int(number) if number else peak)
    if name in CONTENDERS:
        return CONTENDERS[name].make()
    known = ", ".join((*PRESETS, *CONTENDERS, "static:N"))
    raise BadPolicy(f"no policy {name!r}; there are {known}")


def main(
    arguments: Sequence[str],
    common: Callable[[argparse.ArgumentParser], None] = lambda _: None,
    classes_of: Callable[[argparse.Namespace], Sequence[Class]] = lambda _: MLPERF_CLASSES,
) -> int:
    """Replay a trace under a policy; print and write what came of it.

    `common` adds the options by which `classes_of` finds the classes; without them: MLPerf's.
    """
    parser = _parser()
    common(parser)
    options = parser.parse_args(arguments)
    options.classes = classes_of(options)
    started = time.perf_counter()
    to_s = math.inf if options.to_s is None else options.to_s
    level = options.level
    if level == "auto":
        short = to_s - options.from_s <= REQUEST_LEVEL_S
        level = "request" if short else "fluid"
    if options.format == "gentd26":  # jobs have deadlines, not tokens
        level = "jobs"
    levels = {"request": _request, "fluid": _fluid, "jobs": _jobs}
    found = levels[level](options, to_s)
    found |= {"level": level, "policy": options.policy, "cold_start_s": options.cold_start}
    found["wall_s"] = round(time.perf_counter() - started, 2)
    text = json.dumps(found, indent=1)
    if options.out is not None:
        options.out.write_text(text + "\n", encoding="utf-8")
    print(text)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="sluice replay", description=main.__doc__)
    add = parser.add_argument
    add("--trace", type=Path, required=True, metavar="F")
    add("--format", choices=FORMATS, required=True)
    add("--policy", default="balanced", help="a preset, HPA, KPA, Dynamo, ... or static:N")
    add("--cold-start", type=float, default=240.0, metavar="S")
    add("--how", choices=[*Reconstruction], default="step", help="of ServeGen's windows")
    add("--mean-units", type=float, default=30.0, help="the fleet's mean size (default: 30)")
    add("--from-s", type=float, default=0.0)
    add("--to-s", type=float)
    add("--level", choices=("auto", "fluid", "request"), default="auto")
    add("--service-s", type=float, default=27.38, help="of a job (gentd26; default: 27.38)")
    add("--within-s", type=float, default=21_600.0, help="a job's deadline (default: six hours)")
    add("--seed", type=int, default=1)
    add("--sites", type=Path, metavar="F", help="request level: kinds and places (YAML)")
    add("--out", type=Path, metavar="F", help="write the result (JSON)")
    return parser


def _fluid(options: argparse.Namespace, to_s: float) -> dict[str, Any]:
    how = Reconstruction(options.how)
    if options.format == "servegen":
        whole = units_of(
            options.trace, how, seed=options.seed, unit=UNIT, mean_units=options.mean_units
        )
    else:
        whole = _in_units(read_arrivals(options.trace, options.format), UNIT, options.mean_units)
    series = whole.between(options.from_s, min(to_s, whole.ticks * whole.tick_s))
    scaler = scaler_named(options.policy, series, options.cold_start)
    world = World(cold_start_s=options.cold_start, seed=options.seed)
    outcome = fluid(series, scaler, world)
    oracle = perfect(series.total_s, cold_start_s=options.cold_start, tick_s=series.tick_s)
    return {
        "attainment": round(outcome.attainment, 6),
        "unit_hours": round(outcome.unit_s / 3600.0, 2),
        "oracle_unit_hours": round(oracle.unit_s / 3600.0, 2),
        "over_oracle": round(outcome.unit_s / oracle.unit_s, 4),
        "actions_per_day": round(outcome.actions_per_day, 1),
        "worst_ten_minutes": round(outcome.worst_ten_minutes, 4),
        "most_backlog_s": round(outcome.most_backlog_s, 3),
        "dropped_streams": None,  # a fluid has no streams
    }


def _in_units(arrivals: Sequence[Arrival], unit: Unit, mean_units: float) -> DemandSeries:
    series = from_arrivals(arrivals, unit.law)
    mean = float(series.total_s.mean())
    return series.scaled(mean_units / mean if mean else 1.0)


def _request(options: argparse.Namespace, to_s: float) -> dict[str, Any]:
    arrivals = calls_of(options.trace, options.format, options.from_s, to_s, options.seed)
    if not arrivals:
        print("no calls in that time", file=sys.stderr)
        return {"classes": {}}
    kind = kind_for(arrivals, options.mean_units, options.classes)
    tightest = min(options.classes, key=lambda each: each.rank).name
    series = from_arrivals([_moved(a, -arrivals[0].at_s) for a in arrivals], kind.law).scaled(
        1.0 / (kind.share(tightest) * TICK_S)
    )
    scaler = scaler_named(options.policy, series, options.cold_start, tenants=64)
    first = max(1, math.ceil(float(series.total_s[:6].mean()) * 1.05))
    sites = read_sites(options.sites, kind, options.cold_start) if options.sites else ()
    found = replay(
        arrivals,
        kind,
        scaler,
        units=first,
        cold_start_s=options.cold_start,
        seed=options.seed,
        sites=sites,
        default_class=tightest,
    )
    oracle = perfect(series.total_s, cold_start_s=options.cold_start, tick_s=TICK_S)
    tallies = {
        name: {**asdict(tally), "attainment": round(tally.attainment, 6)}
        for name, tally in found.classes.items()
    }
    kept_tokens = sum(t.tokens * t.attainment for t in found.classes.values())
    return {
        "classes": tallies,
        "goodput_tokens_per_s": round(kept_tokens / max(found.lasted_s, 1e-9), 1),
        "unit_hours": round(found.unit_s / 3600.0, 3),
        "oracle_unit_hours": round(oracle.unit_s / 3600.0, 3),
        "over_oracle": round(found.unit_s / oracle.unit_s, 4),
        "actions": found.actions,
        "most_by_site": dict(found.most_by_site),
        "worst_ten_minutes": round(found.worst_ten_minutes, 4),
        "dropped_streams": found.dropped,
        "calls": len(arrivals),
    }


def _jobs(options: argparse.Namespace, to_s: float) -> dict[str, Any]:
    """Plan units for jobs alone, by their deadlines; each recorded job is drawn as often as the
    wanted mean size asks for.
    """
    came = [a.at_s for a in read_arrivals(options.trace, options.format)]
    came = [at - options.from_s for at in came if options.from_s <= at < to_s]
    if not came:
        print("no jobs in that time", file=sys.stderr)
        return {"jobs": 0}
    lasts_s = max(came[-1], 1.0)
    at = again(came, options.mean_units * lasts_s / options.service_s / len(came), options.seed)
    jobs = Jobs(at, options.service_s, options.within_s)
    ticks = math.ceil((lasts_s + options.within_s) / TICK_S)
    nobody = DemandSeries(("",), np.zeros((1, ticks)), TICK_S)
    world = SharedWorld(cold_start_s=options.cold_start, seed=options.seed)
    found = replay_shared(nobody, jobs, JobsScaler(JOBS_POLICY), world)
    return {
        "jobs": found.jobs,
        "attainment": round(found.in_time, 6),
        "latest_s": round(found.latest_s, 1),
        "unit_hours": round(found.unit_s / 3600.0, 2),
        "work_unit_hours": round(found.jobs_s / 3600.0, 2),
        "actions_per_day": round(found.actions_per_day, 1),
        "worst_ten_minutes": round(found.worst_ten_minutes_of_jobs, 4),
    }


def calls_of(path: Path, form: str, from_s: float, to_s: float, seed: int) -> list[Arrival]:
    """Give a trace's calls between two instants, drawn where it has windows only."""
    if form == "servegen":
        windows = read_servegen(path)
        end = min(to_s, windows.rate_per_s.shape[1] * windows.window_s)
        calls = list(drawn(windows, scale=1.0, from_s=from_s, to_s=end, seed=seed))
        return sorted(calls, key=lambda each: each.at_s)
    return [a for a in read_arrivals(path, form) if from_s <= a.at_s < to_s]


def kind_for(
    arrivals: Sequence[Arrival],
    mean_units: float,
    promised: Sequence[Class] = MLPERF_CLASSES,
) -> Kind:
    """Give replicas of an MI355X's law, slowed down so that the recorded rate needs `mean_units`
    of them within Interactive's limits: a trace's fleet need not be ours.
    """
    base = profile("llama2-70b", "mi355x")
    classes = {each.name: each for each in promised}
    read = sum(a.input_tokens for a in arrivals) / len(arrivals)
    out = sum(a.output_tokens for a in arrivals) / len(arrivals)
    mix = Mix(max(read, 1.0), max(out, 1.0), 1.5)
    lasts = max(arrivals[-1].at_s - arrivals[0].at_s, 1.0)
    work = sum(
        work_s(base.law, Mix(max(a.input_tokens, 1), max(a.output_tokens, 1))) for a in arrivals
    )
    slow = lasts * mean_units * INTERACTIVE_SHARE / work
    return Kind(base, classes, base.law.slowed(slow), mix)


def _moved(arrival: Arrival, by_s: float) -> Arrival:
    return Arrival(
        arrival.at_s + by_s,
        arrival.input_tokens,
        arrival.output_tokens,
        arrival.tenant,
        arrival.class_name,
    )
