"""A pool's own record is planned with where bursts come and go within a start, and nowhere else."""

import numpy as np
import pytest

from autoscale.explain import told
from autoscale.forecast import load_weights
from autoscale.journal import entry
from autoscale.plan import PoolView
from autoscale.policy import PRESETS
from autoscale.record import RECORD_S, Record
from autoscale.scaler import PoolScaler
from autoscale.traces import Floats
from tests.autoscale.making import forecast

AHEAD = 25  # ticks of ten seconds: a start of 240 s and the tick in which it is asked for
HOUR = round(RECORD_S / 10.0)


def _bursts(seed: int, ticks: int = 1000) -> Floats:
    """Work that is there for a tick or two and then gone."""
    rng = np.random.default_rng(seed)
    return np.where(rng.random(ticks) < 0.15, rng.gamma(2.0, 10.0, ticks), 0.3)


def _levels(seed: int, ticks: int = 1000) -> Floats:
    """Work that stays for a while where it is."""
    rng = np.random.default_rng(seed)
    steps = np.repeat(rng.uniform(0.0, 30.0, ticks // 100 + 1), 100)[:ticks]
    return np.maximum(steps + rng.normal(0.0, 0.3, ticks), 0.0)


def _scaler() -> PoolScaler:
    return PoolScaler(1, PRESETS["balanced"], weights=load_weights())


def _run(work: Floats, scaler: PoolScaler) -> list[bool]:
    """Feed work; say after each tick whether the record was planned with."""
    restless = []
    for tick, amount in enumerate(work.tolist()):
        now = 10.0 * (tick + 1)
        scaler.step(PoolView(now, 10, offered=amount, last_call_at=now), np.array([amount]))
        restless.append(scaler.record.restless)
    return restless


@pytest.mark.parametrize("seed", range(3))
def test_bursts_are_planned_for_by_how_often_they_come(seed: int) -> None:
    scaler, work = _scaler(), _bursts(seed)
    restless = _run(work, scaler)
    assert np.mean(restless[60:]) > 0.95
    last = scaler.last_forecast
    assert last is not None
    assert np.mean(work[-HOUR:] > last.upper(0.9)) == pytest.approx(0.1, abs=0.01)


@pytest.mark.parametrize("seed", range(3))
def test_a_load_that_stays_is_left_to_the_forecast(seed: int) -> None:
    assert not any(_run(_levels(seed) + 3.0, _scaler()))


@pytest.mark.parametrize("after", [0.0, 0.4])
def test_neither_a_jump_nor_its_end_is_a_burst(after: float) -> None:
    work = np.concatenate([np.full(400, after), np.full(60, 20.0), np.full(400, after)])
    assert not any(_run(work, _scaler()))


def test_a_level_that_follows_bursts_is_known_within_a_start() -> None:
    restless = _run(np.concatenate([_bursts(1), np.full(AHEAD, 25.0)]), _scaler())
    assert restless[999]
    assert not restless[-1]


def test_silence_changes_nothing() -> None:
    record = Record(AHEAD, tick_s=10.0)
    for work in (*(5.0, 0.0) * 10, *([0.0] * 200)):
        record.told(work, forecast(5.0))
    assert record.restless


def test_a_short_record_says_its_highest_and_a_long_one_its_quantile() -> None:
    record = Record(AHEAD, tick_s=10.0)
    assert record.quantile(0.9) == 0.0
    for value in (1000.0, 3.0, 7.0):
        record.told(value, forecast(5.0))
    assert record.quantile(0.9) == 1000.0
    for value in range(HOUR - 1, -1, -1):
        record.told(float(value), forecast(5.0))
    assert record.quantile(0.5) == pytest.approx((HOUR - 1) / 2)
    assert record.quantile(0.9) == pytest.approx(0.9 * (HOUR + 1) - 1)
    assert (record.quantile(0.0), record.quantile(1.0)) == (0.0, HOUR - 1)


@pytest.mark.parametrize("bursts", [True, False])
def test_explain_says_what_the_quantiles_are_of(bursts: bool) -> None:
    scaler = _scaler()
    _run(_bursts(0, 60) if bursts else np.full(60, 5.0), scaler)
    done, said = scaler.last_plan, scaler.last_forecast
    assert done is not None
    assert said is not None
    view = PoolView(done.at, 10, last_call_at=done.at)
    record = entry("m", done, view, said, scaler.policy, fence=1, done="steady")
    assert ("quantiles of the last hour" in told(record)) is bursts
