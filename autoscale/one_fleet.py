"""What does one fleet for calls and videos cost, over two fleets of the same planner?

Calls are a ServeGen week, videos arrive as GenTD26's image requests do, each drawn as often as the
wanted mean load asks for. Both sides of the comparison are planned by the product's own planner.
"""

import argparse
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from autoscale.contest import Case, series_of
from autoscale.demand import DemandSeries
from autoscale.fluid import World, replay
from autoscale.forecast import load_weights
from autoscale.policy import PRESETS
from autoscale.scaler import PoolScaler
from autoscale.shared_world import (
    JOBS_POLICY,
    Jobs,
    SharedOutcome,
    SharedWorld,
    again,
    replay_shared,
)
from autoscale.sharing import JobsScaler, SharedScaler, Swap
from autoscale.traces import BadTrace, read_arrivals

_DAY_S = 86_400.0


@dataclass(frozen=True, slots=True)
class Videos:
    """The videos: `mean_units` of work, each `service_s` of one unit, due `within_s` after it
    came (21,600 s is what the gateway gives a video by default).
    """

    mean_units: float = 6.0
    service_s: float = 27.38
    within_s: float = 21_600.0
    swap_s: float = 60.0


@dataclass(frozen=True, slots=True)
class Compared:
    """One fleet beside two: units on average, shares kept, and the least that any planner whose
    units never idle, start or swap could pay over the two fleets (`floor`).
    """

    case: Case
    videos: Videos
    preset: str
    cold_start_s: float
    calls_units: float
    calls_kept: float
    videos_units: float
    videos_in_time: float
    one_units: float
    one: SharedOutcome
    floor: float

    @property
    def ratio(self) -> float:
        """The one fleet's unit-hours over the two fleets'."""
        return self.one_units / (self.calls_units + self.videos_units)


def jobs_of(path: Path, videos: Videos, *, days: float, seed: int) -> Jobs:
    """Draw jobs like the requests of the trace's second week: each Poisson-many times, within
    half a minute of its instant. Raises BadTrace where there are none.
    """
    second = 7 * _DAY_S
    came = np.array([a.at_s - second for a in read_arrivals(path, "gentd26")])
    came = came[(came >= 0.0) & (came < days * _DAY_S)]
    if not came.size:
        raise BadTrace(f"{path}: no request in the second week")
    times = videos.mean_units * days * _DAY_S / videos.service_s / came.size
    return Jobs(again(came.tolist(), times, seed), videos.service_s, videos.within_s)


def compare(
    case: Case, trace: Path, videos: Videos, preset: str, *, cold_start_s: float = 240.0
) -> Compared:
    """Run both; raises BadTrace."""
    series = series_of(case)
    days = series.ticks * series.tick_s / _DAY_S
    jobs = jobs_of(trace, videos, days=days, seed=case.seed)
    policy, weights, tenants = PRESETS[preset], load_weights(), len(series.tenants)
    calls = replay(
        series,
        PoolScaler(tenants, policy, weights=weights, cold_start_s=cold_start_s),
        World(cold_start_s=cold_start_s),
    )
    swap = Swap(videos.swap_s, videos.service_s)
    world = SharedWorld(cold_start_s=cold_start_s, swap_s=videos.swap_s)
    nobody = DemandSeries(("",), np.zeros((1, series.ticks)), series.tick_s)
    alone = replay_shared(nobody, jobs, JobsScaler(JOBS_POLICY), world)
    rule = SharedScaler(tenants, policy, swap, weights=weights, cold_start_s=cold_start_s)
    one = replay_shared(series, jobs, rule, world)
    lasts_s = series.ticks * series.tick_s
    two = (calls.unit_s + alone.unit_s) / lasts_s
    least = float(series.total_s.mean()) * one.attainment + one.jobs_s / lasts_s
    return Compared(
        case,
        videos,
        preset,
        cold_start_s,
        calls.unit_s / lasts_s,
        calls.attainment,
        alone.unit_s / lasts_s,
        alone.in_time,
        one.unit_s / lasts_s,
        one,
        least / two,
    )


def rows(options: argparse.Namespace, cases: Sequence[Case], pool: Executor) -> str:
    """Compare in every case and give the table."""
    traces = Path(options.traces)
    found = sorted(traces.glob("*gentd26_requests*"))
    if not found:
        raise BadTrace(f"{traces}: no file *gentd26_requests*.csv.gz")
    videos = Videos(options.video_units, options.video_s, options.video_within, options.swap)
    jobs = [
        pool.submit(compare, case, found[0], videos, preset, cold_start_s=cold)
        for cold in options.cold_start
        for preset in options.preset
        for case in cases
    ]
    return table([job.result() for job in jobs])


def table(found: Sequence[Compared]) -> str:
    """Write comparisons as a Markdown table."""
    head = (
        "fleet",
        "preset, D",
        "two fleets: calls",
        "videos",
        "one fleet: calls",
        "videos in time",
        "units",
        "ratio (no planner below)",
        "swaps, starts and ends a day",
    )
    lines = [f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"]
    for each in found:
        cells = (
            f"{each.case.fleet} {each.case.how}",
            f"{each.preset}, {each.cold_start_s:.0f} s",
            f"{each.calls_kept:.2%} with {each.calls_units:.2f}",
            f"{each.videos_in_time:.2%} with {each.videos_units:.2f}",
            f"{each.one.attainment:.2%}",
            f"{each.one.in_time:.2%}",
            f"{each.one_units:.2f}",
            f"{each.ratio:.3f} ({each.floor:.3f})",
            f"{each.one.swaps_per_day:.0f}, {each.one.actions_per_day:.0f}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
