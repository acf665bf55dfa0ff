"""What could a rule know at best of the next cold start, and what does it cost it at least?

The states for `lower_bound`: the features of our forecast, weighted by quantile regression on the
very week that is bounded, and cut into cells. Needs scipy.
"""

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from autoscale.demand import DemandSeries
from autoscale.fluid import World
from autoscale.lower_bound import Bound, Ints, Starts, online
from autoscale.traces import Floats
from autoscale.training import features_of, fit

_MIDDLE, _HIGH, _HIGHEST = 0.87, 0.95, 0.985
_EVERY = 5  # ticks that lie close say the same
_LEADS = 5


@dataclass(frozen=True, slots=True)
class OnlineBound:
    """The least bound over the states that were tried, and which one gave it."""

    bound: Bound
    state: str


def online_bound(series: DemandSeries, world: World, *, attainment: float) -> OnlineBound:
    """Bound what a rule costs, in unit-ticks, that knows of the next cold start what the features
    say. The least over several ways to cut them is taken: each is a bound for rules that know no
    more than its cells, and none of them is known to say all.
    """
    total = series.total_s
    states = states_of(features_of(series, world.cold_start_s), total, _lead(series, world))
    starts = starts_of(world, series.tick_s)
    found = [
        OnlineBound(online(total, state, attainment=attainment, starts=starts), name)
        for name, state in states.items()
    ]
    return min(found, key=lambda each: each.bound.unit_ticks)


def starts_of(world: World, tick_s: float) -> Starts:
    """Give the world's starts: five lengths that are equally likely, with its jitter."""
    sigma = world.jitter
    if sigma <= 0.0:
        leads = [world.cold_start_s]
    else:
        shares = (np.arange(_LEADS) + 0.5) / _LEADS
        normal = [NormalDist().inv_cdf(float(share)) for share in shares]
        leads = [world.cold_start_s * float(np.exp(sigma * z - sigma**2 / 2)) for z in normal]
    return Starts(
        tuple(max(1, round(lead / tick_s)) for lead in leads), round(world.drain_s / tick_s)
    )


def states_of(features: Floats, total: Floats, lead: int) -> dict[str, Ints]:
    """Cut the forecast that fits this very trace best: by one quantile finely, and by a middle one
    with the room above it.
    """
    x, y = features[6:-lead:_EVERY], total[6 + lead :: _EVERY]
    quantiles = (_MIDDLE, _HIGH, _HIGHEST)
    middle, high, highest = (np.maximum(features @ fit(x, y, q), 1e-3) for q in quantiles)
    return {
        "high": _cut(high, 80),
        "middle and room": _cut(middle, 30) * 8 + _cut(highest / middle, 4),
    }


def _cut(values: Floats, parts: int) -> Ints:
    """Say in which of `parts` equally full intervals each value lies."""
    edges = np.unique(np.quantile(values, np.arange(1, parts) / parts))
    return np.searchsorted(edges, values, side="right").astype(np.int64)


def _lead(series: DemandSeries, world: World) -> int:
    return round(world.cold_start_s / series.tick_s) + 1
