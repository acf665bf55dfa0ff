"""What do classes that share a fleet, and a burst, come to call by call?

`s4`: interactive, server and batch calls at 40, 40 and 20 % on one fleet. `s6`: Azure's code calls
twenty times over, all interactive. Both with replicas of an MI355X and the gateway's own admission,
routing and ledger. `s7`: the calls of `s4` on two sites, replicas of an MI355X near and of an
MI325X 150 ms away, which interactive calls do not go to.

A fleet begins with what the mean load of the first cold start needs: until then no rule's decision
is there yet. A fixed number (`static`) is there from the beginning.
"""

import argparse
import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from autoscale.baselines import StaticPeak
from autoscale.contest import Case
from autoscale.demand import TICK_S, DemandSeries, from_arrivals
from autoscale.fluid import Scaler
from autoscale.oracle import perfect
from autoscale.replay.kind import Kind, chunk_within
from autoscale.replay.sites import Site
from autoscale.replay.tally import Replayed
from autoscale.replay.world import replay
from autoscale.traces import Arrival, BadTrace, read_arrivals
from autoscale.whatif import scaler_named
from backends.capacity import Mix
from backends.hardware import profile
from backends.slo import MLPERF_CLASSES

SHARES = {"interactive": 0.4, "server": 0.4, "offline": 0.2}
_MODEL = "llama2-70b"
FAR_RTT_S = 0.15
# Of an MI355X's, for a GPU that does 0.3 of its work at the server class's limits: an assumption.
FAR_COST = 0.25


@dataclass(frozen=True, slots=True)
class RowResult:
    """What came of a row under one policy; `over_bound` is its cost over perfect knowledge's, which
    must not miss any tick's work within Interactive's limits.
    """

    row: str
    policy: str
    cold_start_s: float
    mean_units: float
    over_bound: float
    found: Replayed


def mixed(arrivals: Sequence[Arrival], *, times: float, seed: int) -> list[Arrival]:
    """Offer each call `times` times on average within half a minute, its class by `SHARES`."""
    rng = np.random.default_rng(seed)
    names = rng.choice(list(SHARES), size=_many(arrivals, times), p=list(SHARES.values()))
    return [
        replace(each, class_name=str(name))
        for each, name in zip(_repeated(arrivals, times, 30.0, rng), names, strict=False)
    ]


def burst(arrivals: Sequence[Arrival], *, times: float, seed: int) -> list[Arrival]:
    """Offer each call `times` times on average within ten seconds, all interactive: bursts of ten
    seconds and more stay what they were, and no single call becomes a burst.
    """
    rng = np.random.default_rng(seed)
    return [replace(a, class_name="interactive") for a in _repeated(arrivals, times, 10.0, rng)]


def _many(arrivals: Sequence[Arrival], times: float) -> int:
    return math.ceil(len(arrivals) * times * 1.2) + 100


def _repeated(
    arrivals: Sequence[Arrival], times: float, within_s: float, rng: np.random.Generator
) -> list[Arrival]:
    counts = rng.poisson(times, len(arrivals))
    made = [
        replace(each, at_s=each.at_s + float(rng.uniform(0.0, within_s)), tenant=f"t{n % 8}")
        for each, count in zip(arrivals, counts, strict=True)
        for n in range(int(count))
    ]
    return sorted(made, key=lambda a: a.at_s)


ROWS: Mapping[str, tuple[str, float, Callable[..., list[Arrival]]]] = {
    "s4": ("*azure*conv*", 20.0, mixed),
    "s6": ("*azure*code*", 20.0, burst),
    "s7": ("*azure*conv*", 20.0, mixed),
}


def run(
    row: str,
    traces: Path,
    policy: str,
    cold_start_s: float,
    *,
    seconds: float,
    seed: int = 1,
    far_cost: float = FAR_COST,
    units: int | None = None,
) -> RowResult:
    """Replay a row call by call, beginning with `units` if that is given; raises BadTrace."""
    pattern, times, make = ROWS[row]
    files = sorted(traces.glob(pattern))
    if not files:
        raise BadTrace(f"{traces}: no file {pattern}")
    calls = [a for a in read_arrivals(files[0], "azure") if a.at_s < seconds]
    arrivals = make(calls, times=times, seed=seed)
    kind = _kind(arrivals)
    start = arrivals[0].at_s
    moved = [replace(a, at_s=a.at_s - start) for a in arrivals]
    series = from_arrivals(moved, kind.law).scaled(1.0 / (kind.share("interactive") * TICK_S))
    scaler = scaler_named(policy, series, cold_start_s, tenants=64)
    if units is None:
        units = _first(scaler, series, cold_start_s)
    sites = _sites(arrivals, kind, cold_start_s, far_cost) if row == "s7" else ()
    found = replay(
        arrivals,
        kind,
        scaler,
        units=units,
        cold_start_s=cold_start_s,
        seed=seed,
        sites=sites,
    )
    bound = perfect(series.total_s, cold_start_s=cold_start_s, tick_s=TICK_S)
    mean = float(series.total_s.mean())
    return RowResult(row, policy, cold_start_s, mean, found.unit_s / bound.unit_s, found)


def _first(scaler: Scaler, series: DemandSeries, cold_start_s: float) -> int:
    """Say with how many units a fleet begins."""
    if isinstance(scaler, StaticPeak):
        return scaler.units
    ticks = max(1, round(cold_start_s / series.tick_s))
    return max(1, math.ceil(float(series.total_s[:ticks].mean()) * 1.05))


def _sites(
    arrivals: Sequence[Arrival], near: Kind, cold_start_s: float, far_cost: float
) -> tuple[Site, Site]:
    far = _kind(arrivals, "mi325x", tightest="server")
    return (
        Site("near", near, cold_start_s=cold_start_s),
        Site("far", far, rtt_s=FAR_RTT_S, cold_start_s=cold_start_s, cost=far_cost),
    )


def _kind(
    arrivals: Sequence[Arrival], hardware: str = "mi355x", *, tightest: str = "interactive"
) -> Kind:
    """Make the replicas, launched for the tightest class that goes to them."""
    base = profile(_MODEL, hardware)
    read = sum(a.input_tokens for a in arrivals) / len(arrivals)
    out = sum(a.output_tokens for a in arrivals) / len(arrivals)
    classes = {each.name: each for each in MLPERF_CLASSES}
    targets = classes[tightest].targets(_MODEL)
    chunk = chunk_within(base.law, targets, most=base.chunk_tokens)
    base = replace(base, chunk_tokens=chunk)
    return Kind(base, classes, base.law, Mix(max(read, 1.0), max(out, 1.0), 1.5))


def rows(options: argparse.Namespace, cases: Sequence[Case], pool: Executor) -> str:
    """Run the row under each preset (and `--policy`) at each cold start; give the table."""
    policies = [*options.preset, *(options.policy or [])]
    jobs = [
        pool.submit(
            run,
            options.rows,
            options.traces,
            policy,
            cold,
            seconds=options.seconds,
            units=options.units,
        )
        for cold in options.cold_start
        for policy in policies
    ]
    return table([job.result() for job in jobs])


def table(found: Sequence[RowResult]) -> str:
    """Write results as a Markdown table."""
    head = (
        "row",
        "policy, D",
        "mean units",
        "kept by class",
        "worst ten minutes",
        "over bound",
        "actions, dropped",
        "most at once",
    )
    lines = [f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"]
    for each in found:
        kept = ", ".join(
            f"{name} {tally.attainment:.2%} of {tally.offered:,}"
            for name, tally in each.found.classes.items()
        )
        cells = (
            each.row,
            f"{each.policy}, {each.cold_start_s:.0f} s",
            f"{each.mean_units:.1f}",
            kept,
            f"{each.found.worst_ten_minutes:.2%}",
            f"{each.over_bound:.3f}",
            f"{each.found.actions}, {each.found.dropped}",
            ", ".join(f"{name} {count}" for name, count in each.found.most_by_site.items()),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
