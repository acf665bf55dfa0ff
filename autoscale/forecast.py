"""How much work will there be when a replica that is started now is ready?

A quantile of the work one cold start ahead is a weighted sum of the features of `levels` (weights
by quantile regression over development traces, `weights.json`), and is kept calibrated online: when
the quantile at `CHECKED` is exceeded more often than it says, every quantile is asked a little
higher (adaptive conformal inference).
"""

import json
import math
from collections import deque
from dataclasses import dataclass
from importlib.resources import files

import numpy as np

from autoscale.levels import FEATURES, Levels
from autoscale.traces import Floats

CHECKED = 0.92
_GAIN = 3e-4
_MOST_SHIFT = 0.5


@dataclass(frozen=True, slots=True)
class Weights:
    """Weights of the features by cold start: `up` (quantiles, features) for the work one cold start
    ahead, `hold` for the peak within two and a half.
    """

    cold_start_s: tuple[float, ...]
    up_quantiles: tuple[float, ...]
    hold_quantiles: tuple[float, ...]
    up: Floats
    hold: Floats

    def at(self, cold_start_s: float) -> tuple[Floats, Floats]:
        """Interpolate in the logarithm of the cold start; the nearest one outside."""
        known = [math.log(each) for each in self.cold_start_s]
        position = min(max(math.log(max(cold_start_s, 1.0)), known[0]), known[-1])
        high = next(i for i, each in enumerate(known) if each >= position - 1e-12)
        low = max(high - 1, 0)
        if low == high:
            return self.up[high], self.hold[high]
        share = (position - known[low]) / (known[high] - known[low])
        return (
            self.up[low] + share * (self.up[high] - self.up[low]),
            self.hold[low] + share * (self.hold[high] - self.hold[low]),
        )


def load_weights() -> Weights:
    """Read the weights that come with the package."""
    raw = json.loads((files("autoscale") / "weights.json").read_text(encoding="utf-8"))
    if tuple(raw["features"]) != FEATURES:
        raise ValueError("weights.json was made for other features")
    return Weights(
        tuple(raw["cold_start_s"]),
        tuple(raw["up_quantiles"]),
        tuple(raw["hold_quantiles"]),
        np.array(raw["up"]),
        np.array(raw["hold"]),
    )


@dataclass(frozen=True, slots=True)
class Forecast:
    """Quantiles of the work per second, in the unit that was fed in.

    `up` are for one cold start ahead, `hold` for the peak until two and a half; `shift` is the
    online correction, in powers of ten of the probability of exceeding. `by_record`: they are those
    of the last hour's work, whatever was last (`record`).
    """

    at: float
    level: float
    horizon_s: float
    quantiles: tuple[float, ...]
    up: list[float]
    hold_quantiles: tuple[float, ...]
    hold: list[float]
    shift: float = 0.0
    season_trust: float = 0.0
    by_record: bool = False

    def upper(self, quantile: float) -> float:
        """Give the calibrated quantile one cold start ahead."""
        tail = max(1.0 - quantile, 1e-4) * 10.0**-self.shift
        return _interpolated(self.quantiles, self.up, tail)

    def kept(self, quantile: float) -> float:
        """Give the quantile of the peak within two and a half cold starts."""
        return _interpolated(self.hold_quantiles, self.hold, 1.0 - quantile)

    def work_between(self, low: float, high: float) -> float:
        """Give the work per second expected one cold start ahead between two levels: what units
        from `low` to `high` would do. The chance to exceed a level falls evenly from one quantile
        to the next, from 1 at no work to the last quantile's, and is 0 beyond.
        """
        done, before, chance = 0.0, 0.0, 1.0
        for quantile, value in zip(self.quantiles, self.up, strict=True):
            here = min((1.0 - quantile) * 10.0**self.shift, chance)
            if value > before:
                start, end = max(low, before), min(high, value)
                if end > start:
                    middle = (start + end) / 2.0
                    share = (middle - before) / (value - before)
                    done += (end - start) * (chance + share * (here - chance))
                before = value
            chance = here
        return done


class Forecaster:
    """The running forecast of one pool's work: `update` once per tick, instants as arguments.

    `tenants` is the length of the rows that are fed in.
    """

    def __init__(
        self, tenants: int, *, cold_start_s: float, tick_s: float, weights: Weights
    ) -> None:
        self.cold_start_s = cold_start_s
        self._ahead = max(1, round(cold_start_s / tick_s)) + 1
        self._levels = Levels(tenants, tick_s=tick_s, horizon_ticks=self._ahead)
        self._weights = weights
        self._learn_cold_start(cold_start_s)
        self._asked: deque[float] = deque(maxlen=self._ahead)
        self._shift = 0.0
        self._exceeded = 0
        self._checked = 0

    @property
    def levels(self) -> Levels:
        """The features' state."""
        return self._levels

    @property
    def exceeded(self) -> float:
        """The share of ticks in which the checked quantile was exceeded: 1 - CHECKED is meant."""
        return self._exceeded / self._checked if self._checked else 0.0

    def _learn_cold_start(self, cold_start_s: float) -> None:
        up, hold = self._weights.at(cold_start_s)
        self._both = np.concatenate([up, hold])
        self._split = len(up)

    def retime(self, cold_start_s: float) -> None:
        """Look further or less far ahead from now on: starts were observed to take this long."""
        self.cold_start_s = cold_start_s
        self._learn_cold_start(cold_start_s)

    def update(self, row: Floats, at: float) -> Forecast:
        """Take in the work of a tick that ended at `at`, in units per tenant; give the forecast."""
        self._judge(float(row.sum()))
        features = self._levels.update(row, at)
        values: list[float] = (self._both @ features).tolist()
        forecast = Forecast(
            at,
            float(features[0]),
            self.cold_start_s,
            self._weights.up_quantiles,
            values[: self._split],
            self._weights.hold_quantiles,
            values[self._split :],
            self._shift,
            self._levels.seasons.trust,
        )
        self._asked.append(forecast.upper(CHECKED))
        return forecast

    def _judge(self, work: float) -> None:
        """Compare what came with what was forecast for now."""
        if len(self._asked) < self._ahead:
            return
        missed = work > self._asked[0]
        self._checked += 1
        self._exceeded += missed
        self._shift += _GAIN * (float(missed) - (1.0 - CHECKED))
        self._shift = min(max(self._shift, -_MOST_SHIFT), _MOST_SHIFT)


def _interpolated(quantiles: tuple[float, ...], values: list[float], tail: float) -> float:
    """Interpolate in the logarithm of the tail; quantiles that cross are taken in order."""
    wanted = -math.log10(tail)
    highest = max(values[0], 0.0)
    before = -math.log10(1.0 - quantiles[0])
    if wanted <= before:
        return highest
    for quantile, value in zip(quantiles[1:], values[1:], strict=True):
        upper = max(value, highest)
        here = -math.log10(1.0 - quantile)
        if wanted <= here:
            return highest + (wanted - before) / (here - before) * (upper - highest)
        before, highest = here, upper
    return highest
