"""What do measured calls say of our predictions? Small controllers, one number each; pure."""

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from math import inf

# A missed TPOT takes 5 %, a kept one gives 0.03 %: 0.6 % missed is even, so that a class that
# promises 99 % has something left for refusals.
SLOWER, FASTER = 0.95, 1.0003
SETTLE_S = 1.0  # one lesson from the calls that ran side by side
LEAST_PACE, MOST_PACE = 0.4, 1.15

MARGIN_QUANTILE = 0.98
MARGIN_CALLS, MARGIN_LEAST_CALLS = 128, 16
LEAST_MARGIN, MOST_MARGIN = 0.05, 0.4  # of the limit

OUTLIER_RATIO = 3.0  # of the pool's median
OUTLIER_CALLS = 10
EJECT_S, MOST_EJECT_S = 10.0, 300.0
MOST_EJECTED = 1.0 / 3.0  # of a pool


@dataclass(slots=True)
class Pace:
    """How much of the permitted step one replica may use for one class, as its TPOTs have shown.

    Rises slowly with each call inside the limit, falls by 5 % when one is outside, at most once a
    second: steady where about six calls in a thousand miss. 1 without any call.
    """

    factor: float = 1.0
    _settled_at: float = 0.0

    def observe(self, tpot_s: float, limit_s: float, now: float) -> None:
        """Take in one call's TPOT; `now` in any seconds that do not go back."""
        if tpot_s <= limit_s:
            self.factor = min(self.factor * FASTER, MOST_PACE)
        elif now >= self._settled_at:
            self.factor = max(self.factor * SLOWER, LEAST_PACE)
            self._settled_at = now + SETTLE_S


class Margin:
    """What a TTFT prediction must leave: the 98th percentile of how much too early it was.

    Over the last 128 calls, between 5 and 40 % of the limit; 10 % until sixteen have been seen.
    """

    __slots__ = ("_in_order", "_sorted", "share")

    def __init__(self) -> None:
        self.share = 0.1
        self._in_order: deque[float] = deque()
        self._sorted: list[float] = []

    def within(self, limit_s: float) -> float:
        """Give the margin in seconds."""
        return self.share * limit_s

    def observe(self, late_s: float, limit_s: float) -> None:
        """Take in by how much a first token came later than predicted."""
        late = late_s / limit_s
        self._in_order.append(late)
        insort(self._sorted, late)
        if len(self._in_order) > MARGIN_CALLS:
            del self._sorted[bisect_left(self._sorted, self._in_order.popleft())]
        count = len(self._sorted)
        if count >= MARGIN_LEAST_CALLS:
            found = self._sorted[min(int(MARGIN_QUANTILE * count), count - 1)]
            self.share = min(max(found, LEAST_MARGIN), MOST_MARGIN)


@dataclass(slots=True)
class _Lateness:
    ratio: float = 1.0
    calls: int = 0
    until: float = -inf
    eject_s: float = EJECT_S


@dataclass(slots=True)
class Outliers:
    """Which replicas of a pool answer far later than predicted, compared with the others?

    A replica whose mean of (first token / prediction) is over three times the pool's median, over
    at least ten calls, gets no calls for 10 s, then twice as long each time, up to 5 minutes. At
    most a third of a pool is out at once; a pool of two has no median to be compared with.
    """

    _by_replica: dict[str, _Lateness] = field(default_factory=dict)
    _until: float = -inf

    def observe(self, replica_id: str, ratio: float, now: float) -> None:
        """Take in one call: measured over predicted seconds to the first token."""
        found = self._by_replica.setdefault(replica_id, _Lateness())
        found.calls += 1
        found.ratio += max(0.1, 1.0 / found.calls) * (min(ratio, 100.0) - found.ratio)
        if found.calls < OUTLIER_CALLS or now < found.until:
            return
        others = sorted(x.ratio for x in self._by_replica.values() if x.calls >= OUTLIER_CALLS)
        out = sum(now < x.until for x in self._by_replica.values())
        allowed = int(len(self._by_replica) * MOST_EJECTED)
        median = others[len(others) // 2]
        if len(others) >= 3 and out < allowed and found.ratio > OUTLIER_RATIO * max(median, 1.0):
            found.until = now + found.eject_s
            self._until = max(self._until, found.until)
            found.eject_s = min(2.0 * found.eject_s, MOST_EJECT_S)
            found.calls, found.ratio = 0, 1.0

    def ejected(self, now: float) -> frozenset[str]:
        """Give the replicas that get no calls now."""
        if now >= self._until:
            return frozenset()
        return frozenset(r for r, x in self._by_replica.items() if now < x.until)

    def keep_only(self, ids: Collection[str]) -> None:
        """Forget replicas that are gone."""
        for gone in self._by_replica.keys() - set(ids):
            del self._by_replica[gone]

    @property
    def ratios(self) -> Mapping[str, float]:
        """Mean of measured over predicted by replica."""
        return {r: x.ratio for r, x in self._by_replica.items()}
