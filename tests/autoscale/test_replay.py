"""The fluid and the request level tell the same story."""

import numpy as np
import pytest

from autoscale.baselines import StaticPeak
from autoscale.demand import TICK_S, from_arrivals
from autoscale.fluid import World
from autoscale.fluid import replay as fluid
from autoscale.replay.kind import Kind
from autoscale.replay.world import replay
from autoscale.traces import Arrival
from backends.capacity import Mix, StepLaw
from backends.hardware import profile
from backends.slo import MLPERF_CLASSES


def _kind() -> Kind:
    base = profile("llama2-70b", "mi355x")
    law = StepLaw(base.law.c0_s, base.law.c_tok_s * 8, base.law.c_kv_s * 8)
    return Kind(base, {c.name: c for c in MLPERF_CLASSES}, law, Mix(200.0, 150.0))


def _arrivals(kind: Kind, *, units: float, seconds: float) -> list[Arrival]:
    """Poisson arrivals that need so many units on average."""
    rng = np.random.default_rng(4)
    per_call = kind.law.c_tok_s * 350 + kind.law.c_kv_s * 150 * 275
    rate = units * kind.share("interactive") / per_call
    at = np.cumsum(rng.exponential(1.0 / rate, size=int(rate * seconds)))
    return [Arrival(float(t), 200, 150, tenant=f"t{i % 3}") for i, t in enumerate(at)]


@pytest.mark.parametrize(("units", "there"), [(3.0, 4), (5.0, 4)])
def test_the_fluid_and_the_request_level_agree(units: float, there: int) -> None:
    kind = _kind()
    arrivals = _arrivals(kind, units=units, seconds=240.0)
    calls = replay(arrivals, kind, StaticPeak(there), units=there)
    series = from_arrivals(arrivals, kind.law)
    demand = series.scaled(1.0 / (kind.share("interactive") * TICK_S))
    work = fluid(demand, StaticPeak(there), World())
    assert sum(calls.work_by_tick) == pytest.approx(float(demand.total_s.sum()), rel=0.05)
    tally = calls.classes["interactive"]
    assert tally.offered == len(arrivals)
    assert tally.attainment == pytest.approx(work.attainment, abs=0.08)


def test_a_scale_in_drops_no_call() -> None:
    kind = _kind()
    arrivals = _arrivals(kind, units=2.0, seconds=200.0)

    class Falling:
        left = 8

        def decide(self, view: object, row: object) -> int:
            self.left = max(3, self.left - 1)
            return self.left

    found = replay(arrivals, kind, Falling(), units=8)
    tally = found.classes["interactive"]
    assert found.dropped == 0
    assert tally.offered == len(arrivals)
    assert tally.attainment > 0.95
