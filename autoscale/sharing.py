"""Two models on one fleet: calls that cannot wait, and jobs that can until a deadline. Pure.

A unit changes its model sooner than a new one starts, so what jobs run on is the reserve of the
calls. How many units there are at all is decided a cold start ahead: enough for the calls' upper
quantile, and for their median together with what the jobs need by their deadlines. Which model they
run is decided a swap ahead: calls get their quantile of that shorter horizon, jobs get the rest.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from autoscale.allocate import Backlog, deferrable_units
from autoscale.forecast import Forecast, Forecaster, Weights
from autoscale.plan import Memory, Plan, PoolView, plan
from autoscale.policy import Policy
from autoscale.record import Record
from autoscale.scaler import RETIMED
from autoscale.traces import Floats
from backends.backlogs import PoolBacklog

_NO_LEAST = Policy(least=0)
_NO_CALLS = Forecast(0.0, 0.0, 240.0, (0.5, 0.9), [0.0, 0.0], (0.5, 0.7), [0.0, 0.0])
# A job is planned to end when this share of its time is over: the rest is for what nobody foresees.
_PLANNED_SHARE = 0.6
_SWAPPED_BACK = 0.3


@dataclass(frozen=True, slots=True)
class Swap:
    """What changing a unit's model takes in seconds: `swap_s` once it is empty, and `empties_s`
    until then (for jobs: one that runs is let finish).
    """

    swap_s: float = 60.0
    empties_s: float = 30.0

    @property
    def lead_s(self) -> float:
        """How long before a unit that runs jobs serves calls."""
        return self.swap_s + self.empties_s


@dataclass(frozen=True, slots=True)
class FillerView:
    """The jobs' side at an instant: units that run jobs or idle for them (`ready`), units that
    start or are being swapped for them (`coming`), what is due when, and the unit-seconds of work
    that no unit has begun (`waiting_s`).
    """

    ready: int
    coming: int = 0
    backlog: Sequence[Backlog] = ()
    waiting_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Shared:
    """What to do: units that change sides, units that are started (`start`, of which `start_jobs`
    with the jobs' model), cancelled and ended (`drain`, of which `drain_jobs` that run jobs).

    `total` is the plan for all units together, `calls` that for the units that serve calls;
    `needed` the units that the jobs need by their deadlines.
    """

    to_calls: int
    to_jobs: int
    start: int
    start_jobs: int
    cancel: int
    drain: int
    drain_jobs: int
    total: Plan
    calls: Plan
    needed: float = 0.0


def backlog_of(backlog: PoolBacklog | None, replicas_per_unit: int) -> list[Backlog]:
    """Give what is due in unit-seconds; nothing where nobody tells."""
    if backlog is None:
        return []
    return [Backlog(at, work_s / replicas_per_unit) for at, work_s in backlog.due]


def jobs_need(backlog: Sequence[Backlog], *, cold_start_s: float, now: float) -> float:
    """Give the units that deadlines ask for, each planned for a part of its time left.

    What is due before a unit that is started now could do it (or was due already) is planned for
    two cold starts: no number of units would help it, and it is still to be done.
    """
    soonest_s = 2.0 * cold_start_s
    planned = [
        replace(b, due_at=now + max(_PLANNED_SHARE * (b.due_at - now), soonest_s)) for b in backlog
    ]
    return deferrable_units(planned, idle_units=0.0, cold_start_s=cold_start_s, now=now)


def together(calls: Forecast, needed: float) -> Forecast:
    """Give the forecast of all units: the calls' own quantiles, but not less than their median and
    what the jobs need: a unit that runs jobs is there for the calls when they need it.
    """
    least = max(calls.upper(0.5), 0.0) + needed
    return replace(
        calls,
        level=calls.level + needed,
        up=[max(each, least) for each in calls.up],
        hold=[max(each, least) for each in calls.hold],
    )


def sooner(policy: Policy, lead_s: float, cold_start_s: float) -> Policy:
    """Give a policy for swaps: they cost less in the proportion in which they take effect sooner,
    and a unit that is swapped away is not lost: it comes back as soon.
    """
    ratio = min(lead_s / max(cold_start_s, 1e-9), 1.0)
    return replace(
        policy,
        up_area_s=policy.up_area_s * ratio,
        down_area_s=policy.down_area_s * ratio * _SWAPPED_BACK,
        actions_per_day=policy.actions_per_day / ratio,
        most_step_down=1.0,
        spare_units=0,
    )


class JobsScaler:
    """Plans units that jobs have to themselves: as many as their deadlines ask for."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self._memory = Memory()

    def step(self, view: PoolView, jobs: FillerView, row: Floats) -> Shared:
        """Decide; of the view only the instant and the cold start are looked at."""
        needed = jobs_need(jobs.backlog, cold_start_s=view.cold_start_s, now=view.at)
        mine = replace(
            view,
            ready=jobs.ready + jobs.coming,
            starting=(),
            deferrable=needed,
            last_call_at=view.at if jobs.backlog else view.last_call_at - self.policy.idle_s - 1.0,
        )
        done, self._memory = plan(mine, _NO_CALLS, self.policy, self._memory, now=view.at)
        drain = done.drain
        return Shared(0, 0, done.start, done.start, done.cancel, drain, drain, done, done, needed)


class SharedScaler:
    """Forecasts and memories of two models that share a fleet; `step` once per tick."""

    def __init__(
        self,
        tenants: int,
        policy: Policy,
        swap: Swap,
        *,
        weights: Weights,
        cold_start_s: float = 240.0,
        tick_s: float = 10.0,
        jobs_policy: Policy = _NO_LEAST,
    ) -> None:
        self.swap = swap
        self._near_policy, self._jobs_least = policy, jobs_policy.least
        self._total_policy = replace(
            policy,
            least=policy.least + jobs_policy.least,
            most=policy.most + jobs_policy.most,
        )
        self._far = Forecaster(tenants, cold_start_s=cold_start_s, tick_s=tick_s, weights=weights)
        self._near = Forecaster(tenants, cold_start_s=swap.lead_s, tick_s=tick_s, weights=weights)
        self._far_record, self._near_record = (
            Record(max(1, round(lead_s / tick_s)) + 1, tick_s=tick_s)
            for lead_s in (cold_start_s, swap.lead_s)
        )
        self._total, self._calls = Memory(), Memory()

    def step(self, view: PoolView, jobs: FillerView, row: Floats) -> Shared:
        """Take in a tick's work of the calls, in units by tenant, and decide.

        `view` is the calls' side: units that are being swapped for calls count among its
        `starting`, as do starts of either side.
        """
        now = view.at
        known = self._far.cold_start_s
        if abs(view.cold_start_s - known) > RETIMED * known:
            self._far.retime(view.cold_start_s)
        work = float(row.sum())
        far = self._far_record.told(work, self._far.update(row, now))
        near = self._near_record.told(work, self._near.update(row, now))
        needed = jobs_need(jobs.backlog, cold_start_s=view.cold_start_s, now=now)
        everything = replace(view, ready=view.ready + jobs.ready + jobs.coming)
        total, self._total = plan(
            everything, together(far, needed), self._total_policy, self._total, now=now
        )
        policy = sooner(self._near_policy, self.swap.lead_s, view.cold_start_s)
        calls, self._calls = plan(
            replace(view, cold_start_s=self.swap.lead_s), near, policy, self._calls, now=now
        )
        moves = shared(view, jobs, total, calls, swap=self.swap, jobs_least=self._jobs_least)
        return replace(moves, needed=needed)


def shared(
    view: PoolView, jobs: FillerView, total: Plan, calls: Plan, *, swap: Swap, jobs_least: int = 0
) -> Shared:
    """Make one set of moves of the two plans.

    Calls come first: what they lack is taken from the jobs. What they have too much goes to the
    jobs while there is work for at least a few swaps' time, else stays until the total falls. Units
    of the jobs end before those of the calls do.
    """
    have = view.ready + len(view.starting)
    to_calls = to_jobs = 0
    if calls.target > have:
        to_calls = max(min(calls.target - have, jobs.ready - jobs_least), 0)
    elif calls.target < have and not view.blind and total.drain + total.cancel == 0:
        worth = jobs.waiting_s / (4.0 * swap.lead_s)
        to_jobs = min(have - calls.target, math.floor(worth), view.ready)
    lacking = max(calls.target - have - to_calls, 0)
    start_jobs = max(total.start - lacking, 0)
    drain_jobs = min(total.drain, max(jobs.ready - to_calls - jobs_least, 0))
    return Shared(
        to_calls,
        to_jobs,
        total.start,
        start_jobs,
        total.cancel,
        total.drain,
        drain_jobs,
        total,
        calls,
    )
