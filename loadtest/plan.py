"""What exactly is run: scenario, rules, schedule and dataset, from the options alone?

Every generator process builds the same plan from the same options, so only positions need to be
shared out.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from loadtest import dataset as datasets
from loadtest import scenario as scenarios
from loadtest import schedule as schedules
from loadtest import seeds as seed_names
from loadtest import traces
from loadtest.dataset import Dataset
from loadtest.options import RunOptions
from loadtest.rules import Mode, Rules
from loadtest.scenario import Scenario
from loadtest.schedule import Schedule
from loadtest.seeds import Seeds

# SingleStream is prepared for this many queries; it stops by duration long before.
_SINGLE_STREAM_QUERIES = 100_000


@dataclass(frozen=True, slots=True)
class Plan:
    """A run, fully decided. `deviations`: in what it is not MLPerf's run."""

    options: RunOptions
    scenario: Scenario
    rules: Rules
    seeds: Seeds
    schedule: Schedule
    dataset: Dataset
    deviations: tuple[str, ...]

    @property
    def digest(self) -> str:
        """Identify what is offered: schedule, dataset, request and limits."""
        parts = (
            self.schedule.digest,
            self.dataset.digest,
            repr(sorted(self.scenario.request.items())),
            repr(self.rules),
            self.scenario.api,
            str(self.scenario.service_tier),
        )
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def make(options: RunOptions) -> Plan:
    """Decide a run. Raises ValueError (ScenarioError, DatasetError and TraceError among them)."""
    scenario = scenarios.load(options.scenario, options.model)
    seeds = seed_names.named(options.seed)
    deviations = _deviations(options, scenario)
    rules = scenario.rules
    whole = scenario.whole_passes
    if options.min_queries is not None:
        rules = replace(rules, min_queries=options.min_queries)
    rules = replace(rules, late_p99_ns=round(options.late_bound_ms * 1e6))
    if options.duration is not None:
        rules = replace(rules, min_duration_ns=round(options.duration * 1e9))
        whole = whole and options.duration >= scenario.rules.min_duration_ns / 1e9
    if options.arrival == "trace":
        schedule, data = _traced(options, seeds)
        rules = replace(rules, min_duration_ns=0)
        deviations.append("arrivals and lengths replay a trace")
    else:
        data = _dataset(options, scenario)
        schedule = _schedule(options, scenario, rules, seeds, data.size, whole=whole)
        schedule = replace(schedule, samples=np.roll(schedule.samples, -options.skip))
        if not whole and scenario.whole_passes and len(schedule) % data.size:
            deviations.append("the dataset is not passed whole")
    if data.synthetic:
        deviations.append(f"dataset: {data.note}")
    return Plan(options, scenario, rules, seeds, schedule, data, tuple(deviations))


def _deviations(options: RunOptions, scenario: Scenario) -> list[str]:
    told = []
    least_s = scenario.rules.min_duration_ns / 1e9
    if options.note:
        told.append(options.note)
    if scenario.own:
        told.append("the scenario is not MLPerf's")
    if options.duration is not None and options.duration < least_s:
        told.append(f"minimum duration {options.duration:g} s instead of {least_s:g} s")
    if options.samples is not None and options.samples != scenario.dataset_size:
        told.append(f"{options.samples} samples instead of {scenario.dataset_size}")
    if options.skip:
        told.append(f"the samples' order begins {options.skip} later")
    if options.min_queries is not None and options.min_queries < scenario.rules.min_queries:
        told.append(f"{options.min_queries} queries at least, not {scenario.rules.min_queries}")
    if options.seed not in seed_names.ROUNDS:
        told.append(f"own seed {options.seed}")
    if options.arrival not in ("loadgen", "trace"):
        told.append(f"arrivals are {options.arrival}, not LoadGen's")
    return told


def _dataset(options: RunOptions, scenario: Scenario) -> Dataset:
    if options.dataset:
        path = Path(options.dataset)
        return datasets.read(path, trust_pickle=options.trust_pickle, size=options.samples)
    return datasets.stand_in(scenario, options.samples)


def _schedule(
    options: RunOptions, scenario: Scenario, rules: Rules, seeds: Seeds, size: int, *, whole: bool
) -> Schedule:
    duration_s = rules.min_duration_ns / 1e9
    if options.arrival == "poisson":
        return schedules.poisson(seeds.arrivals, options.target_qps, duration_s, dataset_size=size)
    if options.arrival == "constant":
        return schedules.constant(options.target_qps, duration_s, dataset_size=size)
    if options.arrival == "burst":
        return schedules.burst(
            seeds.arrivals,
            options.target_qps,
            duration_s,
            dataset_size=size,
            size=options.burst_size,
        )
    match scenario.mode:
        case Mode.SERVER:
            return schedules.server(
                seeds,
                options.target_qps,
                dataset_size=size,
                min_duration_s=duration_s,
                min_queries=rules.min_queries,
                whole=whole,
            )
        case Mode.OFFLINE:
            return schedules.offline(
                seeds,
                options.target_qps,
                dataset_size=size,
                min_duration_s=duration_s,
                min_samples=min(rules.min_queries, size),
                whole=whole,
            )
        case Mode.SINGLE_STREAM:
            return schedules.single_stream(
                seeds, dataset_size=size, count=_SINGLE_STREAM_QUERIES, whole=whole
            )


def _traced(options: RunOptions, seeds: Seeds) -> tuple[Schedule, Dataset]:
    if not options.trace:
        raise ValueError("--arrival trace needs --trace FILE")
    stop_s = None if options.duration is None else options.duration * options.trace_speed
    horizon_s = options.trace_start + (stop_s or 3600.0)
    trace = traces.read(Path(options.trace), seed=seeds.arrivals, horizon_s=horizon_s)
    part = trace.window(options.trace_start, stop_s)
    schedule = schedules.replay(part.offsets_s, speed=options.trace_speed)
    digest = f"{part.digest}:{options.trace_start}:{stop_s}"
    return schedule, datasets.recorded(part.rows, f"trace {part.name}", digest)
