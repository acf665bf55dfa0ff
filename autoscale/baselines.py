"""How would other autoscalers have scaled the same fleet?

Re-implementations of published rules. All but `KedaQueue` are fed with our signal, arriving token
work over the capacity within the promise, so that they are stronger here than in the field.
Parameters that are tuned are the fields of each class.
"""

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from autoscale.fluid import Scaler
from autoscale.plan import PoolView
from autoscale.traces import Floats

_TICK_S = 10.0


def _have(view: PoolView) -> int:
    return view.ready + len(view.starting)


@dataclass(slots=True)
class StaticPeak:
    """As many units as the peak (or a quantile) of a week that is known beforehand."""

    units: int

    def decide(self, view: PoolView, row: Floats) -> int:
        """Give the same number for ever."""
        return self.units


@dataclass(slots=True)
class Hpa:
    """Kubernetes HPA v2: desired = ceil(n * metric / target), tolerance 10 %, up at most
    max(double, +4) per sync, down to the highest recommendation of the stabilisation window.
    """

    target: float = 0.8
    tolerance: float = 0.1
    down_window_s: float = 300.0
    mean_s: float = 30.0
    _work: deque[float] = field(default_factory=lambda: deque(maxlen=60))
    _said: deque[int] = field(default_factory=deque)

    def decide(self, view: PoolView, row: Floats) -> int:
        """Recommend, then stabilise."""
        self._work.append(float(row.sum()))
        last = list(self._work)[-max(1, round(self.mean_s / _TICK_S)) :]
        n = _have(view)
        ratio = sum(last) / len(last) / max(view.ready, 1) / self.target
        desired = n
        if abs(ratio - 1.0) > self.tolerance:
            desired = math.ceil(max(view.ready, 1) * ratio)
        desired = max(1, min(desired, max(2 * n, n + 4)))
        self._said.append(desired)
        while len(self._said) > max(1, round(self.down_window_s / _TICK_S)):
            self._said.popleft()
        return desired if desired > n else min(n, max(self._said))


@dataclass(slots=True)
class Kpa:
    """Knative KPA: stable and panic windows; in panic never down; down at most halved per tick."""

    target: float = 0.7
    stable_s: float = 60.0
    panic_share: float = 2.0
    down_delay_s: float = 0.0
    _work: deque[float] = field(default_factory=lambda: deque(maxlen=60))
    _panic_until: float = 0.0
    _panic_most: int = 0
    _said: deque[int] = field(default_factory=deque)

    def decide(self, view: PoolView, row: Floats) -> int:
        """Take the window that holds."""
        self._work.append(float(row.sum()))
        last = list(self._work)[-max(1, round(self.stable_s / _TICK_S)) :]
        stable = math.ceil(sum(last) / len(last) / self.target)
        panic = math.ceil(last[-1] / self.target)
        n = max(1, _have(view))
        if panic / max(view.ready, 1) >= self.panic_share:
            self._panic_until, self._panic_most = view.at + self.stable_s, max(self._panic_most, n)
        desired = stable
        if view.at < self._panic_until:
            self._panic_most = max(self._panic_most, panic)
            desired = self._panic_most
        else:
            self._panic_most = 0
        self._said.append(desired)
        while len(self._said) > max(1, round(self.down_delay_s / _TICK_S)):
            self._said.popleft()
        return max(1, math.ceil(n / 2), max(self._said))


@dataclass(slots=True)
class KedaQueue:
    """KEDA on the length of the queue: ceil(length / target) more than what a floor holds, polled
    every 30 s, down after a cool-down. The queue is empty until it is too late.
    """

    queue_per_unit_s: float = 0.05
    cooldown_s: float = 300.0
    down_share: float = 0.1
    _quiet_at: float = 0.0
    _next_at: float = 0.0

    def decide(self, view: PoolView, row: Floats) -> int:
        """Add for the queue; remove a share when it has been empty for long."""
        n = _have(view)
        if view.at < self._next_at:
            return n
        self._next_at = view.at + 30.0
        if view.waiting_s > 0.0:
            self._quiet_at = view.at + self.cooldown_s
            return n + math.ceil(view.waiting_s / (self.queue_per_unit_s * max(view.ready, 1)))
        if view.at < self._quiet_at:
            return n
        self._quiet_at = view.at + self.cooldown_s
        return max(1, n - max(1, int(self.down_share * n)))


@dataclass(slots=True)
class Wva:
    """llm-d's WVA, saturation: one up where the mean spare is below `least_spare` (or the queue is
    not empty), one down where what is left would keep the spare; every 30 s, none while one starts.
    """

    least_spare: float = 0.1
    keep_spare: float = 0.1
    every_s: float = 30.0
    down_window_s: float = 240.0
    _next_at: float = 0.0
    _low_since: float | None = None

    def decide(self, view: PoolView, row: Floats) -> int:
        """One more, one less or as it is."""
        n = _have(view)
        if view.at < self._next_at or view.starting:
            return n
        self._next_at = view.at + self.every_s
        used = float(row.sum())
        if used / max(view.ready, 1) > 1.0 - self.least_spare or view.waiting_s > 0.0:
            self._low_since = None
            return n + 1
        if n > 1 and used / (n - 1) < 1.0 - self.least_spare - self.keep_spare:
            self._low_since = view.at if self._low_since is None else self._low_since
            if view.at - self._low_since >= self.down_window_s:
                self._low_since = None
                return n - 1
            return n
        self._low_since = None
        return n


@dataclass(slots=True)
class Dynamo:
    """Dynamo's planner: the last interval's load sets a lower bound, and a correction of one per
    tick follows predicted latency (here utilisation): up above 1, down below `sensitivity`.
    """

    interval_s: float = 60.0
    sensitivity: float = 0.8
    margin: float = 1.0
    _work: list[float] = field(default_factory=list)

    def decide(self, view: PoolView, row: Floats) -> int:
        """Decide once per interval."""
        self._work.append(float(row.sum()))
        n = _have(view)
        if len(self._work) < max(1, round(self.interval_s / _TICK_S)):
            return n
        mean = sum(self._work) / len(self._work)
        self._work.clear()
        bound = math.ceil(mean * self.margin)
        if bound > n:
            return bound
        if view.starting:
            return n
        used = mean / max(view.ready, 1)
        if used > 1.0:
            return n + 1
        return max(bound, n - 1, 1) if used < self.sensitivity else n


@dataclass(frozen=True, slots=True)
class Knob:
    """A parameter's range; `log` draws its logarithm evenly."""

    low: float
    high: float
    log: bool = False


@dataclass(frozen=True, slots=True)
class Contender:
    """A rule and the ranges of the parameters that are tuned."""

    make: type[Scaler]
    knobs: Mapping[str, Knob]


CONTENDERS: Mapping[str, Contender] = {
    "HPA": Contender(
        Hpa,
        {
            "target": Knob(0.7, 1.0),
            "tolerance": Knob(0.02, 0.12),
            "down_window_s": Knob(60, 900, log=True),
            "mean_s": Knob(10, 120, log=True),
        },
    ),
    "KPA": Contender(
        Kpa,
        {
            "target": Knob(0.7, 1.0),
            "stable_s": Knob(30, 300, log=True),
            "panic_share": Knob(1.2, 3.0),
            "down_delay_s": Knob(10, 900, log=True),
        },
    ),
    "KEDA queue": Contender(
        KedaQueue,
        {
            "queue_per_unit_s": Knob(0.01, 1.0, log=True),
            "cooldown_s": Knob(60, 1800, log=True),
            "down_share": Knob(0.02, 0.3),
        },
    ),
    "WVA": Contender(
        Wva,
        {
            "least_spare": Knob(0.0, 0.2),
            "keep_spare": Knob(0.0, 0.2),
            "every_s": Knob(10, 60),
            "down_window_s": Knob(30, 480, log=True),
        },
    ),
    "Dynamo": Contender(
        Dynamo,
        {
            "interval_s": Knob(20, 180, log=True),
            "sensitivity": Knob(0.7, 1.0),
            "margin": Knob(0.95, 1.2),
        },
    ),
}
