"""What would calls and jobs have cost on one fleet, and on two? Calls are a fluid of ten-second
ticks as in `fluid`, jobs run one at a time on a unit, in order of their deadlines.

A unit that starts, is swapped or drains is paid for and does nothing. A job that runs is let end.
"""

import heapq
import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from autoscale.allocate import Backlog
from autoscale.demand import DemandSeries
from autoscale.fluid import Times, worst_ten_minutes
from autoscale.plan import PoolView
from autoscale.policy import Policy
from autoscale.sharing import FillerView, Shared
from autoscale.traces import Floats

JOBS_POLICY = Policy(least=0, idle_s=60.0)


@dataclass(frozen=True, slots=True)
class Jobs:
    """Arrivals in seconds, in order; each takes `service_s` of a unit and is due `within_s` after
    it came.
    """

    at_s: Sequence[float]
    service_s: float = 27.38
    within_s: float = 3600.0


@dataclass(frozen=True, slots=True)
class SharedWorld(Times):
    """What is the same for every rule; a swap takes `swap_s` once its unit is empty."""

    swap_s: float = 60.0


@dataclass(frozen=True, slots=True)
class SharedOutcome:
    """What came of it: shares of the offered work and of the jobs in time, unit-seconds paid,
    of which starting and swapping; what was done per day; `jobs_s` is the work of the jobs that
    were begun, `latest_s` the longest that one took from its arrival.
    """

    attainment: float
    in_time: float
    unit_s: float
    starting_s: float
    swapping_s: float
    swaps_per_day: float
    actions_per_day: float
    worst_ten_minutes: float
    worst_ten_minutes_of_jobs: float
    jobs: int
    jobs_s: float
    latest_s: float


class SharedRule(Protocol):
    """Decides for both sides."""

    def step(self, view: PoolView, jobs: FillerView, row: Floats) -> Shared:
        """Give the moves; `row` is the calls' work by tenant in units."""
        ...


def again(came: Sequence[float], times: float, seed: int) -> list[float]:
    """Draw each instant Poisson-many times, `times` on average, within half a minute of it."""
    rng = np.random.default_rng(seed)
    count = rng.poisson(times, len(came))
    at = np.repeat(np.asarray(came), count) + rng.uniform(0.0, 30.0, int(count.sum()))
    in_order: list[float] = np.sort(at).tolist()
    return in_order


def replay_shared(
    series: DemandSeries, jobs: Jobs, rule: SharedRule, world: SharedWorld
) -> SharedOutcome:
    """Run a rule over calls (in units) and jobs."""
    run = _Run(series, jobs, world)
    rows = np.ascontiguousarray(series.work_s.T)
    for tick, offered in enumerate(series.total_s.tolist()):
        view, filler = run.serve(tick, offered)
        run.act(rule.step(view, filler, rows[tick]), view.at)
    return run.outcome()


@dataclass(slots=True)
class _Coming:
    """A unit on its way: `to_jobs` says to which side; `asked_at` for starts, None for swaps."""

    at: float
    to_jobs: bool
    asked_at: float | None


class _Run:
    def __init__(self, series: DemandSeries, jobs: Jobs, world: SharedWorld) -> None:
        self._series, self._jobs, self._world = series, jobs, world
        self._tick_s = series.tick_s
        self._rng = np.random.default_rng(world.seed)
        self._calls = math.ceil(float(series.total_s[:6].mean()))
        self._busy: list[float] = []  # until when each unit of the jobs' side is busy
        self._coming: list[_Coming] = []
        self._draining: list[float] = []
        self._queue: deque[float] = deque()  # arrivals of jobs that no unit has begun
        self._due: dict[float, float] = {}  # their work by five minutes in which it is due
        self._next = 0
        self._backlog = 0.0
        self._missed: list[float] = []
        self._late = self._done = 0
        self._ended: dict[int, list[int]] = {}  # jobs and late ones by ten minutes of arrival
        self._latest_s = 0.0
        self._paid = self._started = self._swapped = 0.0
        self._swaps = self._actions = 0

    def serve(self, tick: int, offered: float) -> tuple[PoolView, FillerView]:
        """Let a tick pass; give what is seen at its end."""
        now, end = tick * self._tick_s, (tick + 1) * self._tick_s
        self._arrive_units(now)
        load = offered + self._backlog
        most = self._world.patience_s / self._tick_s * self._calls
        over = max(0.0, load - self._calls)
        missed = max(0.0, over - most)
        self._backlog = over - missed
        self._missed.append(missed)
        self._run_jobs(now, end)
        starting = sum(1 for each in self._coming if each.asked_at is not None)
        swapping = len(self._coming) - starting
        units = self._calls + len(self._busy) + len(self._coming) + len(self._draining)
        self._paid += units
        self._started += starting
        self._swapped += swapping
        return self._view(end, offered, missed), self._filler(end)

    def act(self, moves: Shared, now: float) -> None:
        """Carry out what was decided."""
        if moves.start or moves.cancel or moves.drain:
            self._actions += 1
        self._swaps += moves.to_calls + moves.to_jobs
        for number in range(moves.start):
            takes_s = self._world.start_s(self._rng)
            self._coming.append(_Coming(now + takes_s, number < moves.start_jobs, now))
        self._busy.sort()
        for _ in range(min(moves.to_calls, len(self._busy))):
            free_at = max(self._busy.pop(0), now)
            self._coming.append(_Coming(free_at + self._world.swap_s, False, None))
        for _ in range(min(moves.to_jobs, self._calls)):
            self._calls -= 1
            # Calls in flight go on for a while: as long as a drain takes.
            ready = now + self._world.drain_s + self._world.swap_s
            self._coming.append(_Coming(ready, True, None))
        self._cancel(moves.cancel)
        self._drain(moves.drain, moves.drain_jobs, now)

    def outcome(self) -> SharedOutcome:
        """Sum up; jobs that are still waiting and not yet due count as neither."""
        offered = self._series.total_s
        missed = np.array(self._missed)
        days = len(missed) * self._tick_s / 86_400.0
        end = len(missed) * self._tick_s
        overdue = sum(1 for at in self._queue if at + self._jobs.within_s < end)
        judged = self._next - len(self._queue) + overdue
        return SharedOutcome(
            1.0 - float(missed.sum() / max(offered.sum(), 1e-9)),
            1.0 - (self._late + overdue) / max(judged, 1),
            self._paid * self._tick_s,
            self._started * self._tick_s,
            self._swapped * self._tick_s,
            self._swaps / days,
            self._actions / days,
            worst_ten_minutes(missed, offered, self._tick_s),
            self._worst_of_jobs(end),
            judged,
            self._done * self._jobs.service_s,
            self._latest_s,
        )

    def _worst_of_jobs(self, end: float) -> float:
        for at in self._queue:
            if at + self._jobs.within_s < end:
                window = self._ended.setdefault(int(at // 600.0), [0, 0])
                window[0] += 1
                window[1] += 1
        return min((1.0 - late / all_ for all_, late in self._ended.values()), default=1.0)

    def _arrive_units(self, now: float) -> None:
        there = [each for each in self._coming if each.at <= now]
        if there:
            self._coming = [each for each in self._coming if each.at > now]
            for each in there:
                if each.to_jobs:
                    self._busy.append(each.at)
                else:
                    self._calls += 1
        self._draining = [at for at in self._draining if at > now]

    def _run_jobs(self, now: float, end: float) -> None:
        jobs = self._jobs
        while self._next < len(jobs.at_s) and jobs.at_s[self._next] < end:
            self._queue.append(jobs.at_s[self._next])
            self._book(jobs.at_s[self._next], jobs.service_s)
            self._next += 1
        heapq.heapify(self._busy)
        while self._queue and self._busy and self._busy[0] < end:
            begun = max(self._busy[0], self._queue[0], now)
            if begun >= end:
                break
            came = self._queue.popleft()
            self._book(came, -jobs.service_s)
            heapq.heapreplace(self._busy, begun + jobs.service_s)
            self._done += 1
            took = begun + jobs.service_s - came
            self._late += took > jobs.within_s
            window = self._ended.setdefault(int(came // 600.0), [0, 0])
            window[0] += 1
            window[1] += took > jobs.within_s
            self._latest_s = max(self._latest_s, took)

    def _view(self, at: float, offered: float, missed: float) -> PoolView:
        waiting = self._backlog * self._tick_s
        starts = [c.asked_at if c.asked_at is not None else at for c in self._coming]
        mine = [a for a, c in zip(starts, self._coming, strict=True) if not c.to_jobs]
        return PoolView(
            at=at,
            ready=self._calls,
            starting=tuple(sorted(mine)),
            offered=offered,
            missed=missed,
            waiting_s=waiting,
            oldest_wait_s=waiting / self._calls if self._calls else math.inf,
            last_call_at=at,
            cold_start_s=self._world.cold_start_s,
        )

    def _filler(self, at: float) -> FillerView:
        service = self._jobs.service_s
        backlog = [Backlog(due, work) for due, work in self._due.items()]
        coming = sum(1 for each in self._coming if each.to_jobs)
        return FillerView(len(self._busy), coming, backlog, len(self._queue) * service)

    def _book(self, came_at: float, work_s: float) -> None:
        due = math.floor((came_at + self._jobs.within_s) / 300.0) * 300.0
        left = self._due.get(due, 0.0) + work_s
        if left > 1e-6:
            self._due[due] = left
        else:
            self._due.pop(due, None)

    def _cancel(self, count: int) -> None:
        """Cancel the youngest starts."""
        starts = sorted(
            (c for c in self._coming if c.asked_at is not None), key=lambda c: c.asked_at or 0.0
        )
        gone = {id(each) for each in starts[len(starts) - count :]} if count else set()
        self._coming = [each for each in self._coming if id(each) not in gone]

    def _drain(self, count: int, of_jobs: int, now: float) -> None:
        """End units: of those that run jobs, the ones that idle soonest."""
        self._busy.sort()
        for number in range(count):
            if number < of_jobs and self._busy:
                self._draining.append(max(self._busy.pop(0), now))
            elif self._calls:
                self._calls -= 1
                self._draining.append(now + self._world.drain_s)
