"""How little can a rule cost that does not know the future?

A bound from below on unit-ticks at an attainment `a`. Unit k (from 0) does m[k, t] = min(1, max(0,
demand[t] - k)) in tick t if it serves then.

1. A miss is priced (Lagrange): for any price p, cost >= min(cost - p * done) + p * a * work, and
   that minimum falls apart into one problem for each unit k.
2. A start that is paid from tick t on and takes L ticks serves from t + L on. Credit each paid tick
   t with the need of tick t + L, and where the unit is stopped, at e, take the needs of e to
   e + L - 1 back: the same sum. Credits are decided with what is known at t, what is taken back
   with what is known at e, so in the mean each need may be replaced by what is expected then.
3. What is expected is told by `state`, one number per tick: the mean over all ticks of that state.
   What is left is a sum of known terms. Its least value over all starts and stops, chosen with all
   states known beforehand (a dynamic program), is at most what a rule costs in the mean.

It holds for rules that know no more of the next cold start than the state says (then the need
within it depends on the state alone). The means are those of the trace itself, which nobody who
decides knows: the bound is as optimistic as if they were known from the start. A state with one
value per tick gives perfect knowledge back, with misses allowed. Work that a tick does not do is
missed: patience is not modelled.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autoscale.traces import Floats

Ints = NDArray[np.int64]
_LEAST_PRICE, _MOST_PRICE = 1.2, 200.0
_GOLDEN = (math.sqrt(5.0) - 1.0) / 2.0


@dataclass(frozen=True, slots=True)
class Starts:
    """How many ticks a start takes (each lead as likely as the next), and those that a unit that
    served is paid for after its stop.
    """

    leads: tuple[int, ...]
    drain: int = 0


@dataclass(frozen=True, slots=True)
class Bound:
    """Unit-ticks that no rule of the kind stays below, at the price of a miss that shows it."""

    unit_ticks: float
    price: float


def online(
    demand: Floats, state: Ints, *, attainment: float, starts: Starts, searches: int = 6
) -> Bound:
    """Give the bound for a demand in units: `state` after each tick, both of shape (ticks,).

    Each price gives a bound; the best of those that are tried (golden section) is taken.
    """
    game = _Game(demand, state, starts)
    asked = attainment * float(demand.sum())

    def at(log_price: float) -> Bound:
        price = math.exp(log_price)
        return Bound(game.least(price) + price * asked, price)

    low, high = math.log(_LEAST_PRICE), math.log(_MOST_PRICE)
    left, right = at(high - _GOLDEN * (high - low)), at(low + _GOLDEN * (high - low))
    best = max(left, right, key=lambda each: each.unit_ticks)
    for _ in range(searches):
        if left.unit_ticks < right.unit_ticks:
            low, left = math.log(left.price), right
            right = at(low + _GOLDEN * (high - low))
        else:
            high, right = math.log(right.price), left
            left = at(high - _GOLDEN * (high - low))
        best = max(best, left, right, key=lambda each: each.unit_ticks)
    return best


class _Game:
    """The priced problem: tables of expectations by state, and the dynamic program.

    What is decided after tick t holds from tick t + 1 on.
    """

    def __init__(self, demand: Floats, state: Ints, starts: Starts) -> None:
        _, self._state = np.unique(state, return_inverse=True)
        self._units = max(1, math.ceil(float(demand.max(initial=0.0)) - 1e-9))
        self._ages = max(starts.leads)
        ahead = [self._expected(demand, lead) for lead in range(self._ages + 1)]
        share = 1.0 / len(starts.leads)
        self._credit = share * np.sum([ahead[lead] for lead in starts.leads], axis=0)
        # By age - 1: the needs that a stop takes back (a start that is cancelled at an age below
        # its lead was credited with the last `age` of them alone), and what it costs.
        self._back = np.zeros((self._ages, *self._credit.shape))
        self._drain = np.zeros((self._ages, 1, 1))
        for lead in starts.leads:
            for age in range(1, lead + 1):
                self._back[age - 1] += share * ahead[lead - age]
            self._drain[lead - 1 :] += share * starts.drain
        np.cumsum(self._back, axis=0, out=self._back)
        # Units that are there at the beginning serve the needs that no paid tick is credited with.
        self._given = float(demand[: self._ages + 1].sum())

    def _expected(self, demand: Floats, lead: int) -> Floats:
        """Give the mean need `lead` ticks after the next one by state: shape (states, units)."""
        later = demand[1 + lead :]
        state = self._state[: len(later)]
        states = int(self._state.max()) + 1
        count = np.maximum(np.bincount(state, minlength=states), 1)
        found = np.zeros((states, self._units))
        for k in range(self._units):
            need = np.clip(later - k, 0.0, 1.0)
            found[:, k] = np.bincount(state, weights=need, minlength=states) / count
        return found

    def least(self, price: float) -> float:
        """Give the least of cost - price * done over all starts and stops."""
        ages, units = self._ages, self._units
        paid = 1.0 - price * self._credit
        stop = price * self._back + self._drain
        # Starts lie in a ring by the tick of their order. At place p, the ages of its places are
        # p, p - 1, .. 1, ages, .. p + 1: a stretch of two copies of all ages, the oldest first.
        turned = np.concatenate([stop[::-1], stop[::-1]]).transpose(1, 0, 2).copy()
        ring = np.full((ages, units), np.inf)
        grown, off, total = np.zeros(units), np.zeros(units), np.zeros(units)
        for tick, state in enumerate(self._state.tolist()):
            place = tick % ages
            young = (ring + turned[state, ages - place : 2 * ages - place]).min(axis=0)
            off = np.minimum(off, total + np.minimum(young, grown + stop[-1, state]))
            grown = np.minimum(grown, ring[place])
            ring[place] = off - total
            total = total + paid[state]
        on = np.minimum(grown, ring.min(axis=0)) + total
        return float(np.minimum(off, on).sum()) - price * self._given
