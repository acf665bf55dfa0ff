"""What does one rule do on one fleet, and which of its parameters suit it best?"""

import math
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from autoscale.baselines import CONTENDERS, Contender, Knob, StaticPeak
from autoscale.demand import TICK_S, DemandSeries, Reconstruction, synthetic
from autoscale.fleets import UNIT, servegen_series
from autoscale.fluid import Faults, Outcome, Scaler, World, replay
from autoscale.forecast import load_weights
from autoscale.oracle import perfect
from autoscale.policy import Policy
from autoscale.scaler import PoolScaler

Job = tuple["Case", "Setting", float, Faults | None, int]
# Not a rule: what no rule of the kind that `hindsight` names stays below.
BOUND = "bound for online rules"


@dataclass(frozen=True, slots=True)
class Case:
    """One fleet in one reconstruction, days `from_day` to `to_day` of it."""

    traces: str
    fleet: str
    how: Reconstruction
    seed: int = 11
    mean_units: float = 30.0
    from_day: float = 0.0
    to_day: float = 7.0


@dataclass(frozen=True, slots=True)
class Setting:
    """A rule with its parameters."""

    rule: str
    values: tuple[tuple[str, float], ...] = ()
    policy: Policy | None = None
    title: str = ""

    @property
    def label(self) -> str:
        """Its name in a table."""
        return self.title or self.rule


@dataclass(frozen=True, slots=True)
class Result:
    """What a rule did in a case: cost over the oracle's, and the rest of the outcome."""

    case: Case
    setting: Setting
    cold_start_s: float
    attainment: float
    ratio: float
    actions_per_day: float
    worst_ten_minutes: float
    most_backlog_s: float
    starting_share: float
    wall_s: float


@lru_cache(maxsize=2)
def series_of(case: Case) -> DemandSeries:
    """Draw the demand of a case, in units."""
    if case.fleet == "synthetic":
        whole = synthetic(
            days=7, mean_units=case.mean_units, unit_work_per_s=1.0 / TICK_S, seed=case.seed
        )
    else:
        whole = servegen_series(
            Path(case.traces),
            case.fleet,
            case.how,
            seed=case.seed,
            unit=UNIT,
            mean_units=case.mean_units,
        )
    return whole.between(case.from_day * 86_400.0, case.to_day * 86_400.0)


def run(
    case: Case, setting: Setting, cold_start_s: float, faults: Faults | None = None, seed: int = 1
) -> Result:
    """Run one rule on one case."""
    series = series_of(case)
    world = World(cold_start_s=cold_start_s, faults=faults or Faults(), seed=seed)
    if setting.rule == BOUND:
        return _bounded(case, setting, series, world)
    started = time.perf_counter()
    outcome = replay(series, scaler_of(setting, series, cold_start_s), world)
    wall_s = time.perf_counter() - started
    return _result(case, setting, cold_start_s, series, outcome, wall_s)


def scaler_of(setting: Setting, series: DemandSeries, cold_start_s: float) -> Scaler:
    """Make the rule."""
    if setting.policy is not None:
        return PoolScaler(
            len(series.tenants), setting.policy, weights=load_weights(), cold_start_s=cold_start_s
        )
    if setting.rule == "static peak":
        return StaticPeak(math.ceil(float(series.total_s.max())))
    if setting.rule == "static p99.9":
        return StaticPeak(math.ceil(float(np.quantile(series.total_s, 0.999))))
    return CONTENDERS[setting.rule].make(**dict(setting.values))


def _result(
    case: Case,
    setting: Setting,
    cold_start_s: float,
    series: DemandSeries,
    outcome: Outcome,
    wall_s: float,
) -> Result:
    oracle = perfect(series.total_s, cold_start_s=cold_start_s, tick_s=series.tick_s)
    return Result(
        case,
        setting,
        cold_start_s,
        outcome.attainment,
        outcome.unit_s / oracle.unit_s,
        outcome.actions_per_day,
        outcome.worst_ten_minutes,
        outcome.most_backlog_s,
        outcome.starting_s / outcome.unit_s,
        wall_s,
    )


def _bounded(case: Case, setting: Setting, series: DemandSeries, world: World) -> Result:
    """Give the bound as if it were a rule that keeps exactly what is asked; it takes no actions."""
    from autoscale.hindsight import online_bound  # needs scipy, which no rule does

    asked = dict(setting.values)["attainment"]
    started = time.perf_counter()
    unit_ticks = online_bound(series, world, attainment=asked).bound.unit_ticks
    oracle = perfect(series.total_s, cold_start_s=world.cold_start_s, tick_s=series.tick_s)
    ratio = unit_ticks * series.tick_s / oracle.unit_s
    wall_s = time.perf_counter() - started
    return Result(
        case, setting, world.cold_start_s, asked, ratio, 0.0, math.nan, math.nan, math.nan, wall_s
    )


def tune(
    name: str,
    cases: Sequence[Case],
    *,
    attainments: Sequence[float],
    cold_start_s: float,
    trials: int,
    pool: ProcessPoolExecutor,
    seed: int = 5,
) -> Mapping[float, Setting]:
    """Try parameters at random, the same number for every rule; for each attainment give the
    cheapest that keeps it in every case, else the one that comes nearest.
    """
    rng = np.random.default_rng(seed)
    settings = [_drawn(name, CONTENDERS[name], rng) for _ in range(trials)]
    jobs: list[Job] = [
        (case, setting, cold_start_s, None, 1) for case in cases for setting in settings
    ]
    results = list(pool.map(run_job, jobs, chunksize=max(1, trials // 4)))
    return {each: _cheapest(settings, results, each) for each in attainments}


def _cheapest(settings: Sequence[Setting], results: Sequence[Result], attainment: float) -> Setting:
    scores = []
    for index, setting in enumerate(settings):
        mine = results[index :: len(settings)]
        lacking = sum(max(0.0, attainment - r.attainment) for r in mine)
        cost = sum(r.ratio for r in mine) / len(mine)
        scores.append((round(lacking, 6), cost, setting))
    return min(scores, key=lambda score: score[:2])[2]


def run_job(job: Job) -> Result:
    """Run one rule on one case, in another process."""
    return run(*job)


def _drawn(name: str, contender: Contender, rng: np.random.Generator) -> Setting:
    values = []
    for knob, span in contender.knobs.items():
        values.append((knob, _point(span, float(rng.random()))))
    return Setting(name, tuple(values))


def _point(span: Knob, share: float) -> float:
    if span.log:
        return span.low * math.exp(share * math.log(span.high / span.low))
    return span.low + share * (span.high - span.low)
