"""How much does a pool's own record say came, and when is it a better guide than a forecast? Pure.

The forecast goes on from a level, as the load of most fleets does. Where bursts come and go within
a start, there is no level: what is started for one comes after it, and the next finds it gone. How
much is needed at an instant is then best told by how often the last hour has needed as much.
"""

from bisect import bisect_left, insort
from collections import deque
from dataclasses import replace

from autoscale.forecast import Forecast

RECORD_S = 3600.0
_LEAST_TICKS = 6
# Of the work within a start, what came and went again from one tick to the next.
_RESTLESS, _CALM = 1.0 / 3.0, 1.0 / 4.0
_QUIET = 0.25  # of the hour's mean


class Record:
    """The work of the last hour by tick, and whether it is `restless`; `ahead` ticks are a start.

    Restless is what comes and goes again: `2 * min(rises, falls) / work`, with rises and falls
    summed from tick to tick over the last start. A load that stays has none, whatever its height;
    nor has a jump, or the end of one: it takes both. Independent calls have `1.1 / sqrt(calls in a
    tick)`, so that only a pool with fewer than a dozen a tick is restless by chance alone. Weeks of
    fleets of 6 and 30 units have 0.05 at most on average, bursts of code completions 0.85.
    """

    def __init__(self, ahead: int, *, tick_s: float) -> None:
        self.restless = False
        self._length = max(1, round(RECORD_S / tick_s))
        self._work: deque[float] = deque()
        self._sorted: list[float] = []
        self._rises: deque[float] = deque(maxlen=ahead)
        self._falls: deque[float] = deque(maxlen=ahead)
        self._lately: deque[float] = deque(maxlen=ahead)

    def told(self, work: float, forecast: Forecast) -> Forecast:
        """Take in a tick's work and the forecast made of it; give the one to plan with.

        While the load is restless that is the record: its quantiles, whatever was last.
        """
        self._add(work)
        self._judge(work)
        if not self.restless:
            return forecast
        return replace(
            forecast,
            up=[self.quantile(q) for q in forecast.quantiles],
            hold=[self.quantile(q) for q in forecast.hold_quantiles],
            shift=0.0,
            by_record=True,
        )

    def quantile(self, quantile: float) -> float:
        """Give a quantile of the last hour's work, in the work's unit; 0 without any.

        The k-th lowest of n values stands for k / (n + 1) (Weibull's plotting position), so that a
        short record says its highest: what was seen once may come again.
        """
        values = self._sorted
        if not values:
            return 0.0
        last = len(values) - 1
        place = min(max(quantile * (len(values) + 1) - 1.0, 0.0), float(last))
        low = int(place)
        return values[low] + (place - low) * (values[min(low + 1, last)] - values[low])

    def _add(self, work: float) -> None:
        self._work.append(work)
        insort(self._sorted, work)
        if len(self._work) > self._length:
            del self._sorted[bisect_left(self._sorted, self._work.popleft())]

    def _judge(self, work: float) -> None:
        """Say whether the load is restless; a start in which little came says nothing."""
        if len(self._work) > 1:
            change = work - self._work[-2]
            self._rises.append(max(change, 0.0))
            self._falls.append(max(-change, 0.0))
        self._lately.append(work)
        all_, ticks = sum(self._lately), len(self._lately)
        usual = sum(self._work) / len(self._work) * ticks
        if ticks < _LEAST_TICKS or all_ <= _QUIET * usual:
            return
        share = 2.0 * min(sum(self._rises), sum(self._falls)) / all_
        if share > _RESTLESS:
            self.restless = True
        elif share < _CALM:
            self.restless = False
