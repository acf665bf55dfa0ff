"""What would a rule have cost and missed on a week of demand, as a fluid of ten-second ticks?

Work that a tick's capacity and the patience of a first token cannot take is refused, and a refused
call is a miss. Starting, serving and draining units are all paid for.
"""

import math
from collections import deque
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from autoscale.demand import DemandSeries
from autoscale.plan import PoolView
from autoscale.scaler import start_learnt
from autoscale.traces import Floats

_LEARNING_S = 600.0
_STUCK_FACTOR = 3.0


class Scaler(Protocol):
    """A rule: from what is seen at the end of a tick to how many units shall be there."""

    def decide(self, view: PoolView, row: Floats) -> int:
        """Give the wanted number of ready and starting units; `row` is the work by tenant."""
        ...


@dataclass(frozen=True, slots=True)
class Faults:
    """What goes wrong. Shares are probabilities; `loss_every_s` 0: nothing is ever lost.

    `speed` is the units' true speed over the believed one; `slow_share` of the starts have
    `slow_speed`; `failed_share` of the starts never serve. Every `stale_every_s` the signals stand
    still for `stale_s`. `length_error` is the sigma of the error in each tenant's work per call,
    drawn anew every ten minutes. `speed_is_learnt`: rules see work in units of the speed that
    replicas have shown (over about ten minutes), as the live loop does.
    """

    speed: float = 1.0
    speed_is_learnt: bool = True
    loss_every_s: float = 0.0
    slow_share: float = 0.0
    slow_speed: float = 0.5
    failed_share: float = 0.0
    stale_every_s: float = 0.0
    stale_s: float = 30.0
    length_error: float = 0.0


@dataclass(frozen=True, slots=True)
class Times:
    """How long starts, drains and waits for a first token take, in seconds; starts vary by a
    lognormal factor of mean 1 whose sigma is `jitter`, drawn from `seed`.
    """

    cold_start_s: float = 240.0
    jitter: float = 0.3
    drain_s: float = 60.0
    patience_s: float = 0.45
    seed: int = 1

    def start_s(self, rng: np.random.Generator) -> float:
        """Draw how long a start takes."""
        factor = rng.lognormal(-self.jitter * self.jitter / 2, self.jitter)
        return float(self.cold_start_s * factor)


@dataclass(frozen=True, slots=True)
class World(Times):
    """What is the same for every rule."""

    sheds: bool = True
    faults: Faults = Faults()
    most_units: int = 1_000


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of it; units are those of the demand.

    `attainment` over all offered work, `worst_ten_minutes` of it, `unit_s` paid, of which
    `starting_s`; `actions_per_day` counts ticks in which the wanted number changed.
    """

    attainment: float
    unit_s: float
    starting_s: float
    actions_per_day: float
    starts_per_day: float
    worst_ten_minutes: float
    most_backlog_s: float
    units: list[int] = field(repr=False)


def replay(series: DemandSeries, scaler: Scaler, world: World) -> Outcome:
    """Run a rule over a series in units."""
    run = _Run(series, world)
    rows = run.seen_rows()
    total = series.total_s.tolist()
    tick_s = series.tick_s
    for tick, offered in enumerate(total):
        view = run.serve(tick, offered)
        target = scaler.decide(view, rows[tick] / run.known_speed)
        run.act(target, (tick + 1) * tick_s)
    return run.outcome()


def worst_ten_minutes(missed: Floats, offered: Floats, tick_s: float) -> float:
    """Give the least share of offered work that any ten minutes kept, by ticks; 1 without any."""
    windows = np.arange(0, len(missed), round(600.0 / tick_s))
    lost, came = np.add.reduceat(missed, windows), np.add.reduceat(offered, windows)
    return 1.0 - float((lost / np.maximum(came, 1e-9)).max(initial=0.0))


class _Run:
    """The state of one replay."""

    def __init__(self, series: DemandSeries, world: World) -> None:
        self._series = series
        self._world = world
        self._tick_s = series.tick_s
        self._rng = np.random.default_rng(world.seed)
        first = float(series.total_s[:6].mean())
        self._speeds: list[float] = [1.0] * max(1, math.ceil(first))
        self._speed = float(len(self._speeds))
        self._starting: list[tuple[float, float, float]] = []  # ready at, asked at, speed
        self._draining: deque[tuple[float, int]] = deque()
        self._backlog = 0.0
        self._waited_s = 0.0
        self._missed: list[float] = []
        self._units: list[int] = []
        self._starting_units = self._actions = self._starts = 0
        self._most_backlog_s = 0.0
        self._stale_view: PoolView | None = None
        self._stale_row: Floats | None = None
        self._cold_s = world.cold_start_s
        self._started = 0
        self.known_speed = 1.0

    def seen_rows(self) -> Floats:
        """Give the work by tenant as the rule sees it: shape (ticks, tenants)."""
        rows = np.ascontiguousarray(self._series.work_s.T)
        faults = self._world.faults
        if faults.length_error:
            per = round(600.0 / self._tick_s)
            blocks = -(-len(rows) // per)
            sigma = faults.length_error
            size = (blocks, rows.shape[1])
            error = self._rng.lognormal(-sigma * sigma / 2, sigma, size=size)
            rows = rows * np.repeat(error, per, axis=0)[: len(rows)]
        if faults.stale_every_s:
            every, length = (
                round(s / self._tick_s) for s in (faults.stale_every_s, faults.stale_s)
            )
            for start in range(every, len(rows), every):
                rows[start : start + length] = rows[start - 1]
        return rows

    def serve(self, tick: int, offered: float) -> PoolView:
        """Let a tick pass; give what is seen at its end."""
        now = tick * self._tick_s
        self._turn(now)
        ready = len(self._speeds)
        capacity = self._speed * self._world.faults.speed
        if ready and self._world.faults.speed_is_learnt:
            shown = capacity / ready
            self.known_speed += self._tick_s / _LEARNING_S * (shown - self.known_speed)
        load = offered + self._backlog
        missed = 0.0
        self._backlog = max(0.0, load - capacity)
        if self._world.sheds:
            most = self._world.patience_s / self._tick_s * capacity
            missed = max(0.0, self._backlog - most)
            self._backlog -= missed
        elif capacity:
            late_s = self._backlog / capacity * self._tick_s
            missed = offered if late_s > self._world.patience_s else 0.0
        backlog_s = self._backlog * self._tick_s
        self._most_backlog_s = max(self._most_backlog_s, backlog_s / max(capacity, 1e-9))
        self._missed.append(missed)
        starting = len(self._starting)
        self._units.append(ready + starting + sum(n for _, n in self._draining))
        self._starting_units += starting
        return self._view(tick, now + self._tick_s, offered, missed, capacity)

    def act(self, target: int, now: float) -> None:
        """Start, cancel and drain until `target` are ready or starting."""
        self._give_up(now)
        target = min(max(0, target), self._world.most_units)
        change = target - len(self._speeds) - len(self._starting)
        if not change:
            return
        self._actions += 1
        for _ in range(change):
            self._start(now)
        if change < 0:
            cancelled = min(-change, len(self._starting))
            self._starting.sort(key=lambda each: each[1])
            del self._starting[len(self._starting) - cancelled :]
            drained = -change - cancelled
            if drained:
                self._speed -= sum(self._speeds[-drained:])
                del self._speeds[-drained:]
                self._draining.append((now + self._world.drain_s, drained))

    def outcome(self) -> Outcome:
        """Sum up."""
        offered = self._series.total_s
        missed = np.array(self._missed)
        days = len(missed) * self._tick_s / 86_400.0
        return Outcome(
            attainment=1.0 - float(missed.sum() / max(offered.sum(), 1e-9)),
            unit_s=sum(self._units) * self._tick_s,
            starting_s=self._starting_units * self._tick_s,
            actions_per_day=self._actions / days,
            starts_per_day=self._starts / days,
            worst_ten_minutes=worst_ten_minutes(missed, offered, self._tick_s),
            most_backlog_s=self._most_backlog_s,
            units=self._units,
        )

    def _turn(self, now: float) -> None:
        """Let starts become ready, drains end and units be lost."""
        if self._starting and any(each[0] <= now for each in self._starting):
            for ready_at, asked_at, speed in self._starting:
                if ready_at <= now:
                    self._speeds.append(speed)
                    self._speed += speed
                    took_s = ready_at - asked_at
                    self._cold_s = start_learnt(self._cold_s, took_s, self._started)
                    self._started += 1
            self._starting = [each for each in self._starting if each[0] > now]
        while self._draining and self._draining[0][0] <= now:
            self._draining.popleft()
        every = self._world.faults.loss_every_s
        if every and now and now % every < self._tick_s and self._speeds:
            self._speed -= self._speeds.pop(int(self._rng.integers(len(self._speeds))))

    def _start(self, now: float) -> None:
        world = self._world
        speed = world.faults.slow_speed if self._rng.random() < world.faults.slow_share else 1.0
        takes = world.start_s(self._rng)
        if self._rng.random() < world.faults.failed_share:
            takes = math.inf
        self._starting.append((now + takes, now, speed))
        self._starts += 1

    def _give_up(self, now: float) -> None:
        """End starts that take too long, as the plan does; they were paid until now."""
        limit = now - _STUCK_FACTOR * self._cold_s
        if self._starting and any(each[1] <= limit for each in self._starting):
            self._starting = [each for each in self._starting if each[1] > limit]

    def _view(
        self, tick: int, at: float, offered: float, missed: float, capacity: float
    ) -> PoolView:
        waiting = self._backlog * self._tick_s
        self._waited_s = self._waited_s + self._tick_s if waiting and not missed else 0.0
        return PoolView(
            at=at,
            ready=len(self._speeds),
            starting=tuple(sorted(each[1] for each in self._starting)),
            offered=offered,
            missed=missed,
            waiting_s=waiting,
            oldest_wait_s=waiting / capacity if capacity else math.inf,
            last_call_at=at,
            blind=self._is_stale(tick),
            cold_start_s=self._cold_s,
        )

    def _is_stale(self, tick: int) -> bool:
        faults = self._world.faults
        if not faults.stale_every_s:
            return False
        since = tick * self._tick_s % faults.stale_every_s
        return tick > 0 and since < faults.stale_s and tick * self._tick_s >= faults.stale_every_s
