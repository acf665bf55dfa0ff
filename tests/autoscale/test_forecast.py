import numpy as np
import pytest

from autoscale.demand import synthetic
from autoscale.fluid import Faults, World, replay
from autoscale.forecast import Forecaster, load_weights
from autoscale.levels import FEATURES, Levels
from autoscale.oracle import perfect, quantile_bound
from autoscale.policy import PRESETS
from autoscale.scaler import PoolScaler
from autoscale.seasons import Seasons


def test_features_scale_with_the_work() -> None:
    series = synthetic(days=0.1, mean_units=10, unit_work_per_s=0.1, seed=1)
    small = Levels(len(series.tenants), tick_s=10.0, horizon_ticks=25)
    large = Levels(len(series.tenants), tick_s=10.0, horizon_ticks=25)
    for tick, row in enumerate(series.work_s.T):
        one, many = small.update(row, tick * 10.0), large.update(7.0 * row, tick * 10.0)
        assert many == pytest.approx(7.0 * one, abs=1e-6)


def test_a_tenant_that_left_is_remembered_for_an_hour() -> None:
    levels = Levels(2, tick_s=10.0, horizon_ticks=25)
    at = FEATURES.index("tenant30"), FEATURES.index("tenant60")
    for tick in range(60):
        levels.update(np.array([5.0, 4.0]), tick * 10.0)
    seen = [levels.update(np.array([5.0, 0.0]), (60 + t) * 10.0) for t in range(400)]
    assert seen[100][at[0]] == pytest.approx(4.0)
    assert seen[250][at[0]] == pytest.approx(0.0)
    assert seen[250][at[1]] == pytest.approx(4.0)
    assert seen[-1][at[1]] == pytest.approx(0.0)


def test_a_jump_is_seen_within_two_ticks_and_noise_is_rarely_one() -> None:
    rng = np.random.default_rng(1)
    work = np.concatenate([np.full(120, 10.0), np.full(30, 40.0), np.full(30, 5.0)])
    work += rng.normal(0.0, 0.3, size=len(work))
    levels = Levels(1, tick_s=10.0, horizon_ticks=25)
    seen = np.array([levels.update(np.array([w]), t * 10.0)[0] for t, w in enumerate(work)])
    assert seen[121] == pytest.approx(40.0, rel=0.05)
    assert seen[151] == pytest.approx(5.0, rel=0.1)
    # Between jumps it is the mean of the minute, which varies less than a pair of ticks.
    minute = np.convolve(work, np.ones(6) / 6.0, mode="valid")[20:100]
    assert np.isclose(seen[25:105], minute).mean() > 0.9


def test_a_season_is_trusted_once_it_has_come_true() -> None:
    wave = [10.0 + 5.0 * np.sin(2 * np.pi * t / 8640.0) for t in range(3 * 8640)]
    seasons = Seasons(10.0, 60)
    first = [seasons.update(level, t * 10.0) for t, level in enumerate(wave[:8640])]
    assert max(map(abs, first)) == 0.0
    for t, level in enumerate(wave[8640:]):
        seasons.update(level, (8640 + t) * 10.0)
    assert seasons.trust > 0.8


def test_a_season_that_does_not_repeat_is_not_trusted() -> None:
    rng = np.random.default_rng(1)
    levels = np.repeat(rng.uniform(5.0, 15.0, size=3 * 144), 60)
    seasons = Seasons(10.0, 60)
    for t, level in enumerate(levels):
        seasons.update(float(level), t * 10.0)
    assert seasons.trust < 0.3


def test_the_quantile_covers_what_it_says_within_a_few_points() -> None:
    series = synthetic(days=2, mean_units=20, unit_work_per_s=0.1, seed=3)
    forecaster = Forecaster(
        len(series.tenants), cold_start_s=240.0, tick_s=10.0, weights=load_weights()
    )
    for tick, row in enumerate(series.work_s.T):
        forecaster.update(row, tick * 10.0)
    assert forecaster.exceeded == pytest.approx(0.08, abs=0.05)


def test_quantiles_rise() -> None:
    forecaster = Forecaster(1, cold_start_s=100.0, tick_s=10.0, weights=load_weights())
    rng = np.random.default_rng(2)
    for tick in range(500):
        forecast = forecaster.update(np.array([rng.uniform(5.0, 9.0)]), tick * 10.0)
        asked = [forecast.upper(q) for q in (0.1, 0.5, 0.8, 0.9, 0.95, 0.99, 0.999)]
        assert asked == sorted(asked)


def test_perfect_knowledge_keeps_short_gaps_and_pays_each_start() -> None:
    demand = np.array([1.0] * 10 + [0.0] * 3 + [1.0] * 10 + [0.0] * 30 + [1.0] * 10)
    found = perfect(demand, cold_start_s=60.0, tick_s=10.0)
    assert found.starts == 2
    assert found.unit_s == (10 + 3 + 10 + 10 + 2 * 6) * 10.0


def test_no_policy_beats_the_quantile_bound() -> None:
    series = synthetic(days=1, mean_units=10, unit_work_per_s=0.1, seed=5)
    world = World()
    outcome = replay(series, PoolScaler(3, PRESETS["saving"], weights=load_weights()), world)
    bound = quantile_bound(
        series.total_s, attainment=outcome.attainment - 0.045, tick_s=series.tick_s
    )
    assert outcome.unit_s >= bound


def test_a_week_of_a_synthetic_fleet_is_scaled_within_its_promise_and_few_actions() -> None:
    series = synthetic(days=2, mean_units=30, unit_work_per_s=0.1, seed=9)
    outcome = replay(series, PoolScaler(3, PRESETS["balanced"], weights=load_weights()), World())
    oracle = perfect(series.total_s, cold_start_s=240.0, tick_s=series.tick_s)
    assert outcome.attainment > 0.985
    assert outcome.unit_s < 1.2 * oracle.unit_s
    assert outcome.actions_per_day < 120


@pytest.mark.parametrize(
    "faults",
    [
        Faults(loss_every_s=7200.0),
        Faults(failed_share=0.2),
        Faults(stale_every_s=600.0),
        Faults(length_error=0.2),
    ],
)
def test_faults_cost_little_attainment(faults: Faults) -> None:
    series = synthetic(days=0.5, mean_units=20, unit_work_per_s=0.1, seed=9)
    scaler = PoolScaler(3, PRESETS["balanced"], weights=load_weights())
    outcome = replay(series, scaler, World(faults=faults))
    assert outcome.attainment > 0.93


def test_a_replay_gives_the_same_twice() -> None:
    series = synthetic(days=0.2, mean_units=10, unit_work_per_s=0.1, seed=9)
    twice = [
        replay(series, PoolScaler(3, PRESETS["balanced"], weights=load_weights()), World(seed=4))
        for _ in range(2)
    ]
    assert twice[0] == twice[1]
