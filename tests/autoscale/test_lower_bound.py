"""No rule without knowledge of the future stays below it, and by hand it is what it says."""

import numpy as np
import pytest

from autoscale.baselines import Hpa, Kpa, StaticPeak
from autoscale.demand import DemandSeries, synthetic
from autoscale.fluid import Scaler, World, replay
from autoscale.hindsight import online_bound, starts_of
from autoscale.lower_bound import Starts, online
from autoscale.oracle import perfect

STARTS = Starts((24,))


def _flips(ticks: int, *, seed: int, stays: float = 0.99) -> np.ndarray:
    """Two units or six, by the toss of a coin every tick whether to change."""
    rng = np.random.default_rng(seed)
    changes = rng.random(ticks) > stays
    return np.where(np.cumsum(changes) % 2 == 0, 2.0, 6.0)


def test_who_cannot_know_when_a_unit_is_needed_runs_it_that_share_of_the_time() -> None:
    rng = np.random.default_rng(1)
    demand = (rng.random(5_000) < 0.1).astype(float)
    nothing = np.zeros(5_000, dtype=np.int64)
    found = online(demand, nothing, attainment=0.9, starts=STARTS)
    assert found.unit_ticks == pytest.approx(0.9 * 5_000, rel=0.02)
    assert found.price == pytest.approx(10.0, rel=0.1)


def test_a_change_that_is_not_foreseen_is_missed_for_one_start_or_insured() -> None:
    # At every 100th tick a coin says whether the unit is needed until the next.
    rng = np.random.default_rng(2)
    coins = rng.random(120) < 0.5
    demand = np.repeat(coins, 100).astype(float)
    state = 100 * demand.astype(np.int64) + np.tile(np.arange(100), 120)
    busy, fell, rose = (
        demand.sum(),
        (coins[:-1] & ~coins[1:]).sum(),
        (~coins[:-1] & coins[1:]).sum(),
    )
    # Without insurance: a unit that is ordered after the first tick serves 75 of 100 and is paid
    # for 99; one that is there is paid for one tick of quiet.
    kept = 1.0 - 25.0 * rose / busy
    reacting = online(demand, state, attainment=kept, starts=STARTS).unit_ticks
    assert reacting == pytest.approx(busy - rose + fell, rel=0.015)
    # With it: after each quiet stretch a start's 24 ticks and the first one of the next.
    insured = online(demand, state, attainment=1.0, starts=STARTS).unit_ticks
    quiet = (~coins).sum()
    assert insured == pytest.approx(busy - rose + fell + 25.0 * quiet, rel=0.015)


def test_perfect_knowledge_gives_the_oracle_back() -> None:
    demand = _flips(3_000, seed=3)
    known = np.arange(3_000)
    found = online(demand, known, attainment=1.0, starts=STARTS, searches=20)
    oracle = perfect(demand, cold_start_s=240.0, tick_s=10.0)
    assert found.unit_ticks == pytest.approx(oracle.unit_s / 10.0, rel=0.02)


def test_it_rises_with_what_is_asked_and_falls_with_what_is_known() -> None:
    demand = _flips(4_000, seed=4)
    blind, seen = np.zeros(4_000, dtype=np.int64), demand.astype(np.int64)

    def cost(state: np.ndarray, attainment: float) -> float:
        return online(demand, state, attainment=attainment, starts=STARTS).unit_ticks

    assert cost(seen, 0.9) < cost(seen, 0.95) < cost(seen, 0.99)
    assert cost(np.arange(4_000), 0.95) < cost(seen, 0.95) < cost(blind, 0.95)


@pytest.mark.parametrize(
    "rule",
    [Hpa(0.7, 0.05, 300.0, 10.0), Hpa(1.0, 0.02, 60.0, 10.0), Kpa(0.9), StaticPeak(5)],
    ids=["hpa", "tight hpa", "kpa", "static"],
)
def test_no_rule_is_cheaper_where_the_state_says_all_that_can_be_known(rule: Scaler) -> None:
    demand = _flips(12_000, seed=5)  # memoryless: what is needed now is all that can be known
    world = World(jitter=0.0, patience_s=0.0, drain_s=0.0)
    done = replay(DemandSeries(("a",), demand[None, :]), rule, world)
    bound = online(
        demand, demand.astype(np.int64), attainment=done.attainment, starts=STARTS, searches=8
    )
    assert 0.0 < bound.unit_ticks <= done.unit_s / 10.0


def test_starts_vary_as_the_world_says_and_last_as_long_in_the_mean() -> None:
    varied = starts_of(World(cold_start_s=240.0, jitter=0.3, drain_s=60.0), 10.0)
    assert np.mean(varied.leads) == pytest.approx(24.0, rel=0.05)
    assert len(set(varied.leads)) == 5
    assert varied.drain == 6
    assert starts_of(World(cold_start_s=60.0, jitter=0.0), 10.0).leads == (6,)


def test_hpa_stays_above_the_bound_that_is_fitted_to_its_own_day() -> None:
    series = synthetic(days=0.5, mean_units=8, unit_work_per_s=0.1, seed=3)
    world = World(patience_s=0.0)
    done = replay(series, Hpa(0.8), world)
    found = online_bound(series, world, attainment=done.attainment)
    assert 0.5 * float(series.total_s.sum()) < found.bound.unit_ticks < done.unit_s / 10.0
