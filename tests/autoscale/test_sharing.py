"""Calls and jobs on one fleet: who gets which unit, and what that saves."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from autoscale.allocate import Backlog
from autoscale.config import BadConfig, parse
from autoscale.demand import TICK_S, DemandSeries, synthetic
from autoscale.fluid import World
from autoscale.fluid import replay as fluid
from autoscale.forecast import load_weights
from autoscale.plan import Plan
from autoscale.policy import PRESETS, Policy
from autoscale.scaler import PoolScaler
from autoscale.shared_world import JOBS_POLICY, Jobs, SharedWorld, replay_shared
from autoscale.sharing import (
    FillerView,
    JobsScaler,
    SharedScaler,
    Swap,
    jobs_need,
    shared,
    sooner,
    together,
)
from tests.autoscale.making import forecast, view

SWAP = Swap(60.0, 30.0)


def _moves(ready: int, calls: int, jobs: FillerView, **total: Any) -> Any:
    return shared(
        view(ready), jobs, Plan(0.0, 0, **total), Plan(0.0, calls), swap=SWAP, jobs_least=1
    )


def test_what_calls_lack_is_taken_from_jobs_but_for_their_least() -> None:
    assert _moves(5, 7, FillerView(4)).to_calls == 2
    assert _moves(5, 9, FillerView(4)).to_calls == 3
    assert _moves(5, 9, FillerView(0)).to_calls == 0


def test_what_is_started_goes_to_calls_until_they_have_enough() -> None:
    moves = _moves(5, 9, FillerView(2), start=5)
    assert (moves.to_calls, moves.start, moves.start_jobs) == (1, 5, 2)


def test_idle_units_go_to_jobs_only_for_work_that_is_worth_the_swap() -> None:
    assert _moves(9, 6, FillerView(2, waiting_s=10_000.0)).to_jobs == 3
    assert _moves(9, 6, FillerView(2, waiting_s=400.0)).to_jobs == 1
    assert _moves(9, 6, FillerView(2, waiting_s=100.0)).to_jobs == 0
    assert _moves(9, 6, FillerView(2, waiting_s=10_000.0), drain=2).to_jobs == 0
    blind = shared(
        replace(view(9), blind=True),
        FillerView(2, waiting_s=10_000.0),
        Plan(0.0, 0),
        Plan(0.0, 6),
        swap=SWAP,
    )
    assert blind.to_jobs == 0


def test_units_of_jobs_end_before_those_of_calls() -> None:
    moves = _moves(9, 9, FillerView(3), drain=4)
    assert (moves.drain, moves.drain_jobs) == (4, 2)


def test_jobs_ask_for_more_as_their_deadline_comes_near() -> None:
    backlog = [Backlog(7200.0, 3600.0)]
    early = jobs_need(backlog, cold_start_s=240.0, now=0.0)
    late = jobs_need(backlog, cold_start_s=240.0, now=5000.0)
    assert 0.8 < early < 1.0
    assert late > 2.5
    assert jobs_need([], cold_start_s=240.0, now=0.0) == 0.0


def test_what_no_start_can_save_asks_for_no_crowd() -> None:
    overdue = [Backlog(90.0, 30.0), Backlog(130.0, 30.0)]
    assert jobs_need(overdue, cold_start_s=240.0, now=100.0) == pytest.approx(60.0 / 240.0)


def test_units_of_jobs_are_the_reserve_of_the_calls() -> None:
    calls = forecast(10.0, spread=2.0)
    assert together(calls, 3.0).upper(0.9) == pytest.approx(13.0)
    assert together(calls, 3.0).upper(0.999) == pytest.approx(16.0)
    assert together(calls, 0.0).upper(0.9) == pytest.approx(calls.upper(0.9))


def test_a_swap_is_cheaper_than_a_start() -> None:
    swaps = sooner(Policy(), 60.0, 240.0)
    assert swaps.up_area_s == pytest.approx(Policy().up_area_s / 4)
    assert swaps.down_area_s < Policy().down_area_s / 4


def test_one_fleet_keeps_what_two_keep_for_less() -> None:
    series = synthetic(days=0.5, mean_units=12.0, unit_work_per_s=1.0 / TICK_S, seed=3)
    rng = np.random.default_rng(2)
    at = np.sort(rng.uniform(0.0, 0.45 * 86_400.0, 5_000)).tolist()
    jobs, policy, weights = Jobs(at, 27.38, 7200.0), PRESETS["balanced"], load_weights()
    tenants = len(series.tenants)
    calls = fluid(series, PoolScaler(tenants, policy, weights=weights), World())
    nobody = DemandSeries(("",), np.zeros((1, series.ticks)))
    alone = replay_shared(nobody, jobs, JobsScaler(JOBS_POLICY), SharedWorld())
    one = replay_shared(
        series, jobs, SharedScaler(tenants, policy, SWAP, weights=weights), SharedWorld()
    )
    assert alone.in_time > 0.99
    assert one.in_time > 0.99
    assert one.jobs_s > 0.9 * len(at) * jobs.service_s
    assert one.attainment > calls.attainment - 0.005
    assert one.unit_s < 0.99 * (calls.unit_s + alone.unit_s)


def test_pools_that_share_must_exist_on_the_same_hardware() -> None:
    pools = [{"model": "a"}, {"model": "b"}, {"model": "c", "hardware": "mi325x"}]
    found = parse({"pools": pools, "shared": [{"calls": "a", "jobs": "b", "swap_s": 20}]})
    assert found.shared[0].swap_s == 20
    for wrong, message in (
        ([{"calls": "a", "jobs": "d"}], "no pool has the model 'd'"),
        ([{"calls": "a", "jobs": "c"}], "same hardware"),
        ([{"calls": "a"}], "must each name"),
        ([{"calls": "a", "jobs": "a"}], "one other only"),
        ([{"calls": "a", "jobs": "b", "swap_s": 0}], "swap_s must be above 0"),
    ):
        with pytest.raises(BadConfig, match=message):
            parse({"pools": pools, "shared": wrong})
