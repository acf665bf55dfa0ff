"""How do forecast and plan run together on one pool, tick after tick?

The same object decides live, in the replay and in the benchmark.
"""

from autoscale.forecast import Forecast, Forecaster, Weights
from autoscale.plan import Memory, Plan, PoolView, plan
from autoscale.policy import Policy
from autoscale.record import Record
from autoscale.traces import Floats

# The forecast looks as far ahead as starts take; it is told once they differ by this share.
RETIMED = 0.15
_STEADY = 0.05


def start_learnt(known_s: float, took_s: float, seen: int) -> float:
    """Give the mean length of a start after one more that took `took_s`, `seen` ones before it: a
    guess counts as one start, and later the last twenty or so count. Starts differ much among
    themselves, and a forecast that looks as far ahead as the last few took is a worse one.
    """
    return known_s + max(1.0 / (seen + 2), _STEADY) * (took_s - known_s)


class PoolScaler:
    """Forecast, memory and last plan of a pool. Instants come with the views."""

    def __init__(
        self,
        tenants: int,
        policy: Policy,
        *,
        weights: Weights,
        cold_start_s: float = 240.0,
        tick_s: float = 10.0,
    ) -> None:
        self.policy = policy
        self.forecaster = Forecaster(
            tenants, cold_start_s=cold_start_s, tick_s=tick_s, weights=weights
        )
        self.record = Record(max(1, round(cold_start_s / tick_s)) + 1, tick_s=tick_s)
        self.memory = Memory()
        self.last_forecast: Forecast | None = None
        self.last_plan: Plan | None = None

    def step(self, view: PoolView, row: Floats) -> Plan:
        """Take in a tick's work by tenant, in units, and decide."""
        known = self.forecaster.cold_start_s
        if abs(view.cold_start_s - known) > RETIMED * known:
            self.forecaster.retime(view.cold_start_s)
        forecast = self.forecaster.update(row, view.at)
        forecast = self.record.told(float(row.sum()), forecast)
        done, self.memory = plan(view, forecast, self.policy, self.memory, now=view.at)
        self.last_forecast, self.last_plan = forecast, done
        return done

    def decide(self, view: PoolView, row: Floats) -> int:
        """Decide as a rule of the fluid replay does."""
        return self.step(view, row).target
