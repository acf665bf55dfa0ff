"""Views, forecasts and units for tests of the autoscaler."""

from typing import Any

from autoscale.actuate.unit import Unit, UnitState
from autoscale.forecast import Forecast
from autoscale.plan import PoolView


def forecast(level: float, *, spread: float = 0.0, at: float = 0.0) -> Forecast:
    """A forecast whose quantiles rise from the level by `spread` per power of ten of the tail."""
    quantiles = (0.5, 0.9, 0.99, 0.999)
    up = [level + spread * step for step in (0.0, 1.0, 2.0, 3.0)]
    return Forecast(at, level, 240.0, quantiles, up, (0.5, 0.7, 0.85), [level] * 3)


def view(ready: int, **changes: Any) -> PoolView:
    """A quiet pool."""
    values: dict[str, Any] = {"at": 0.0, "ready": ready, "offered": 1.0, "last_call_at": 0.0}
    return PoolView(**(values | changes))


def unit(name: str, state: UnitState = UnitState.SERVING, **changes: Any) -> Unit:
    """A unit of pool m with one replica of the same name."""
    values: dict[str, Any] = {"asked_at": 0.0, "replicas": (name,)}
    return Unit(name, "m", state, **(values | changes))
