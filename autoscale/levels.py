"""What do the last minutes and hours of arriving work look like, in a few numbers?

All features have the unit of the work that is fed in, and scale with it, so that one set of weights
serves fleets of any size. Time is counted in ticks of equal length: the caller feeds one row of
work per tick.
"""

from collections import deque

import numpy as np

from autoscale.seasons import Seasons
from autoscale.traces import Floats

FEATURES = (
    "level",  # mean of the last minute, or since a jump within it
    "below5",  # means of 5, 10, 30 and 60 minutes less the level
    "below10",
    "below30",
    "below60",
    "rise5",  # level over the mean of 5 minutes, where it rises
    "rise30",  # mean of 5 minutes over that of 30, where it rises
    "noise",  # mean change from tick to tick in the last ten minutes
    "peak10",  # highest level of 10, 30, 60 and 180 minutes over the level
    "peak30",
    "peak60",
    "peak180",
    "tenant30",  # the most that one tenant is below its own peak of 30 and 60 minutes
    "tenant60",
    "season",  # change over the horizon that the days before suggest, times its trust
)
_MINUTE = 6
_TENANT_MINUTES = 60
# A jump: the last two ticks differ from the minute by more than so many mean changes of a tick.
# Four standard deviations where ticks are independent.
_JUMP = 2.0


class Levels:
    """Running features of the work of some tenants; one `update` per tick.

    `horizon_ticks` is how far ahead the season is asked. Costs O(tenants) per tick.
    """

    def __init__(self, tenants: int, *, tick_s: float, horizon_ticks: int) -> None:
        self.seasons = Seasons(tick_s, horizon_ticks)
        self._means = [_Mean(k) for k in (6, 30, 60, 180, 360)]
        self._noise = _Mean(60)
        self._peaks = [_Peak(k) for k in (60, 180, 360, 1080)]
        self._recent = np.zeros((_MINUTE, tenants))
        self._sum = np.zeros(tenants)
        self._minutes = np.zeros((_TENANT_MINUTES, tenants))
        self._past30 = self._past60 = np.zeros(tenants)
        self._tick = 0
        self._last = self._noisy = 0.0

    @property
    def ticks(self) -> int:
        """How many ticks were fed."""
        return self._tick

    @property
    def tenants(self) -> Floats:
        """Each tenant's mean of the last minute."""
        mean: Floats = self._recent.mean(axis=0)
        return mean

    def tenant_before(self, minutes: int) -> Floats:
        """Each tenant's highest minute of the `minutes` before the current one."""
        now = self._tick // _MINUTE
        rows = [(now - back) % _TENANT_MINUTES for back in range(1, minutes + 1)]
        peaks: Floats = self._minutes[rows].max(axis=0)
        return peaks

    def update(self, row: Floats, at: float) -> Floats:
        """Take in one tick's work per tenant, which ended at `at`; give the features."""
        total = float(row.sum())
        means = [mean.add(total) for mean in self._means]
        pair = (total + self._last) / 2.0
        if self._tick >= _MINUTE and abs(pair - means[0]) > _JUMP * self._noisy:
            self._means[0].restart(self._last, total)
            means[0] = pair
        noise = self._noisy = self._noise.add(abs(total - self._last) if self._tick else 0.0)
        self._last = total
        level = means[0]
        peaks = [peak.add(level) - level for peak in self._peaks]
        tenant = self._tenant_gaps(row)
        season = self.seasons.update(level, at)
        self._tick += 1
        return np.array(
            (
                level,
                *(mean - level for mean in means[1:]),
                max(level - means[1], 0.0),
                max(means[1] - means[3], 0.0),
                noise,
                *peaks,
                *tenant,
                season,
            )
        )

    def _tenant_gaps(self, row: Floats) -> tuple[float, float]:
        """Keep each minute's peak per tenant; past minutes are summed up once a minute."""
        if row.size == 0:
            return 0.0, 0.0
        slot = self._tick % _MINUTE
        self._sum += row - self._recent[slot]
        self._recent[slot] = row
        current = self._sum / min(self._tick + 1, _MINUTE)
        minute, within = divmod(self._tick, _MINUTE)
        place = minute % _TENANT_MINUTES
        if within == 0:
            self._minutes[place] = 0.0
            self._past60 = self._minutes.max(axis=0)
            half = [(place - back) % _TENANT_MINUTES for back in range(_TENANT_MINUTES // 2)]
            self._past30 = self._minutes[half].max(axis=0)
        now = np.maximum(self._minutes[place], current, out=self._minutes[place])
        gap30 = float((np.maximum(self._past30, now) - current).max())
        gap60 = float((np.maximum(self._past60, now) - current).max())
        return gap30, gap60


class _Mean:
    """The mean of the last `length` values (of fewer at the start)."""

    def __init__(self, length: int) -> None:
        self._values: deque[float] = deque(maxlen=length)
        self._sum = 0.0

    def add(self, value: float) -> float:
        if len(self._values) == self._values.maxlen:
            self._sum -= self._values[0]
        self._values.append(value)
        self._sum += value
        return max(self._sum, 0.0) / len(self._values)

    def restart(self, *values: float) -> None:
        """Forget all but these."""
        self._values.clear()
        self._values.extend(values)
        self._sum = sum(values)


class _Peak:
    """The highest of the last `length` values."""

    def __init__(self, length: int) -> None:
        self._length = length
        self._falling: deque[tuple[int, float]] = deque()
        self._tick = 0

    def add(self, value: float) -> float:
        falling = self._falling
        while falling and falling[-1][1] <= value:
            falling.pop()
        falling.append((self._tick, value))
        self._tick += 1
        while falling[0][0] < self._tick - self._length:
            falling.popleft()
        return falling[0][1]
