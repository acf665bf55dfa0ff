"""How do two pools of a live fleet share their units? From two looks to two plans.

A swap is a drain on one side and a start on the other once the drained unit is gone: the budget of
machines holds at any moment, and whichever actuator runs the units needs to know of nothing new. A
leader that takes over has no swaps under way: units that drain then are ended, and started anew.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from autoscale.config import SharedConfig
from autoscale.decide import Decided, WatchedPool
from autoscale.forecast import Weights
from autoscale.plan import Guard, Plan, PoolView
from autoscale.sharing import FillerView, Shared, SharedScaler, Swap, backlog_of
from autoscale.traces import Floats
from backends.backlogs import PoolBacklog


@dataclass(slots=True)
class SharedPools:
    """Two pools by model, and the swaps whose drained unit is not gone yet."""

    calls: str
    jobs: str
    scaler: SharedScaler
    to_calls: int = 0
    to_jobs: int = 0

    @classmethod
    def of(
        cls,
        config: SharedConfig,
        pools: Mapping[str, WatchedPool],
        weights: Weights,
        *,
        tick_s: float,
    ) -> "SharedPools":
        """Begin with two pools that were configured to share."""
        swap = Swap(config.swap_s, config.empties_s)
        calls = pools[config.calls]
        for model in (config.calls, config.jobs):
            pool = pools[model]
            pool.least_start_s = math.sqrt(config.swap_s * pool.config.cold_start_s)
        scaler = SharedScaler(
            calls.slots.length,
            calls.config.policy,
            swap,
            weights=weights,
            cold_start_s=calls.cold_start_s,
            tick_s=tick_s,
            jobs_policy=pools[config.jobs].config.policy,
        )
        return cls(config.calls, config.jobs, scaler)

    def replanned(
        self, decided: Sequence[Decided], waiting: Mapping[str, PoolBacklog]
    ) -> list[Decided]:
        """Give all decisions, those of the two pools planned together; where one of the two could
        not be looked at, nothing is done with the other.
        """
        by_model = {each.model: each for each in decided}
        if not {self.calls, self.jobs} <= by_model.keys():
            return [each for each in decided if each.model not in {self.calls, self.jobs}]
        calls = by_model[self.calls]
        first, second = self.plan(calls, by_model[self.jobs], waiting.get(self.jobs), calls.row)
        by_model |= {self.calls: first, self.jobs: second}
        return list(by_model.values())

    def plan(
        self, calls: Decided, jobs: Decided, backlog: PoolBacklog | None, row: Floats
    ) -> tuple[Decided, Decided]:
        """Give both pools' decisions with plans that go together."""
        come_calls = _come(self.to_calls, jobs.view.draining)
        come_jobs = _come(self.to_jobs, calls.view.draining)
        view = replace(
            calls.view,
            starting=(*calls.view.starting, *((calls.view.at,) * self.to_calls)),
            blind=calls.view.blind or jobs.view.blind,
        )
        filler = FillerView(
            jobs.view.ready,
            len(jobs.view.starting) + self.to_jobs,
            backlog_of(backlog, jobs.pool.config.replicas_per_unit),
            0.0 if backlog is None else backlog.waiting_s / jobs.pool.config.replicas_per_unit,
        )
        moves = self.scaler.step(view, filler, row)
        self.to_calls += moves.to_calls - come_calls
        self.to_jobs += moves.to_jobs - come_jobs
        first, second = plans_of(
            moves,
            calls.view,
            jobs.view,
            come_calls=come_calls,
            come_jobs=come_jobs,
            give_up_jobs=jobs.plan.give_up,
        )
        return replace(calls, plan=first), replace(jobs, plan=second)


def plans_of(
    moves: Shared,
    calls: PoolView,
    jobs: PoolView,
    *,
    come_calls: int = 0,
    come_jobs: int = 0,
    give_up_jobs: int = 0,
) -> tuple[Plan, Plan]:
    """Divide one set of moves among two pools; `come_*` are swaps whose place has become free.

    Starts of the jobs' side are cancelled first.
    """
    cancel_jobs = min(moves.cancel, len(jobs.starting))
    first = _side(
        moves,
        calls,
        start=moves.start - moves.start_jobs + come_calls,
        cancel=min(moves.cancel - cancel_jobs, len(calls.starting)),
        drain=moves.to_jobs + min(moves.drain - moves.drain_jobs, calls.ready - moves.to_jobs),
        give_up=moves.total.give_up,
    )
    second = _side(
        moves,
        jobs,
        start=moves.start_jobs + come_jobs,
        cancel=cancel_jobs,
        drain=moves.to_calls + moves.drain_jobs,
        give_up=give_up_jobs,
    )
    return first, second


def _side(
    moves: Shared, view: PoolView, *, start: int, cancel: int, drain: int, give_up: int
) -> Plan:
    swaps = moves.to_calls or moves.to_jobs
    basis = moves.calls if swaps else moves.total
    return replace(
        basis,
        target=view.ready + len(view.starting) - give_up + start - cancel - drain,
        start=start,
        cancel=cancel,
        drain=drain,
        give_up=min(give_up, len(view.starting)),
        guard=Guard.SWAP if swaps and (start or drain) else moves.total.guard,
    )


def _come(swaps: int, draining: int) -> int:
    """Say how many swaps have their place: those beyond what still drains on the other side."""
    return max(swaps - draining, 0)
