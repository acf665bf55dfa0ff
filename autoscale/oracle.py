"""What would perfect knowledge have cost?

Exact minimum of unit-ticks with no miss at all: for each level k, the unit number k is on whenever
at least k are needed; a gap shorter than a cold start is cheaper kept on than started again; each
start pays its cold start.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autoscale.traces import Floats


@dataclass(frozen=True, slots=True)
class Oracle:
    """Unit-seconds, how many units were started, and the most that ran at once."""

    unit_s: float
    starts: int
    most: int


def perfect(demand_units: Floats, *, cold_start_s: float, tick_s: float) -> Oracle:
    """Give the bound for a demand in units per tick: shape (ticks,)."""
    need: NDArray[np.int64] = np.ceil(demand_units - 1e-9).astype(np.int64)
    cold = cold_start_s / tick_s
    total, starts = 0.0, 0
    most = int(need.max(initial=0))
    for level in range(1, most + 1):
        on = np.flatnonzero(need >= level)
        gaps = np.diff(on) - 1
        kept = gaps[(gaps > 0) & (gaps < cold)]
        begun = 1 + int((gaps >= cold).sum())
        total += on.size + float(kept.sum()) + begun * cold
        starts += begun
    return Oracle(total * tick_s, starts, most)


def quantile_bound(demand_units: Floats, *, attainment: float, tick_s: float) -> float:
    """Give the unit-seconds of perfect knowledge that may miss 1 - attainment of the work, with
    starts for free: no policy can be cheaper.

    Units are dropped where they would have done the least work: level k of a tick does
    min(1, demand - (k - 1)).
    """
    done = np.sort(_marginal(demand_units))[::-1]
    target = attainment * float(demand_units.sum())
    count = int(np.searchsorted(np.cumsum(done), target)) + 1
    return min(count, done.size) * tick_s


def _marginal(demand: Floats) -> Floats:
    whole = np.floor(demand)
    fractions = demand - whole
    return np.concatenate([np.ones(int(whole.sum())), fractions[fractions > 0]])
