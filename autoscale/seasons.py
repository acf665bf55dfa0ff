"""What do the days before say of the next minutes, and how far may that be trusted?

The profile is the mean level by time of day (newer days weigh more). Its suggestion is the change
of the profile over the horizon; its trust is how well such suggestions have explained what came
(slope of a regression through the origin over about three days, held within 0 and 1).
"""

from collections import deque

DAY_S = 86_400.0
_BINS = 144
_NEW_DAY = 0.5
_MEMORY_S = 3 * DAY_S


class Seasons:
    """A daily profile with its own record; one `update` per tick."""

    def __init__(self, tick_s: float, horizon_ticks: int) -> None:
        self._tick_s = tick_s
        self._horizon = horizon_ticks
        self._profile: list[float | None] = [None] * _BINS
        self._bin = -1
        self._bin_sum = 0.0
        self._bin_count = 0
        self._asked: deque[tuple[float, float]] = deque(maxlen=horizon_ticks + 1)
        self._explained = 0.0
        self._square = 0.0
        self._forget = 1.0 - tick_s / _MEMORY_S

    @property
    def trust(self) -> float:
        """How far the profile's changes have come true: 0 to 1."""
        if self._square <= 0.0:
            return 0.0
        return min(max(self._explained / self._square, 0.0), 1.0)

    def update(self, level: float, at: float) -> float:
        """Take in the level at an instant (seconds of any epoch); give trust times change."""
        self._learn(level, at)
        self._judge(level)
        change = self._change(at)
        self._asked.append((level, change))
        return self.trust * change

    def _learn(self, level: float, at: float) -> None:
        now = int(at % DAY_S / DAY_S * _BINS)
        if now != self._bin:
            if self._bin_count:
                mean = self._bin_sum / self._bin_count
                before = self._profile[self._bin]
                kept = mean if before is None else before + _NEW_DAY * (mean - before)
                self._profile[self._bin] = kept
            self._bin, self._bin_sum, self._bin_count = now, 0.0, 0
        self._bin_sum += level
        self._bin_count += 1

    def _judge(self, level: float) -> None:
        if len(self._asked) <= self._horizon:
            return
        before, change = self._asked[0]
        self._explained = self._explained * self._forget + change * (level - before)
        self._square = self._square * self._forget + change * change

    def _change(self, at: float) -> float:
        ahead = self._at(at + self._horizon * self._tick_s)
        now = self._at(at)
        return 0.0 if ahead is None or now is None else ahead - now

    def _at(self, at: float) -> float | None:
        position = at % DAY_S / DAY_S * _BINS - 0.5
        low = int(position // 1)
        left, right = self._profile[low % _BINS], self._profile[(low + 1) % _BINS]
        if left is None or right is None:
            return None
        return left + (position - low) * (right - left)
