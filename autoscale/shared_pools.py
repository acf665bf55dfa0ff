"""How do two pools of a live fleet share their units? From two looks to two plans.

A swap is a drain on one side and a start on the other once the drained unit is gone: the budget of
machines holds at any moment, and whichever actuator runs the units needs to know of nothing new.
Swaps under way are kept in the store (`swaps`), so that a leader that takes over goes on with them.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from autoscale.config import SharedConfig
from autoscale.decide import Decided
from autoscale.forecast import Weights
from autoscale.plan import Guard, Plan, PoolView
from autoscale.sharing import FillerView, Shared, SharedScaler, Swap, backlog_of
from autoscale.swaps import Change, Exchange, Underway, underway
from autoscale.watched import WatchedPool
from backends.backlogs import PoolBacklog

STARTS_OF_A_SWAP = 3.0  # cold starts that it may last, after the longest drain


@dataclass(frozen=True, slots=True)
class SharedPools:
    """Two pools by model; a swap that has lasted `most_s` is given up."""

    calls: str
    jobs: str
    scaler: SharedScaler
    most_s: float

    @classmethod
    def of(
        cls,
        config: SharedConfig,
        pools: Mapping[str, WatchedPool],
        weights: Weights,
        *,
        tick_s: float,
        drain_within_s: float,
    ) -> "SharedPools":
        """Begin with two pools that were configured to share."""
        swap = Swap(config.swap_s, config.empties_s)
        calls = pools[config.calls]
        for model in (config.calls, config.jobs):
            pool = pools[model]
            pool.kinds[0].least_start_s = math.sqrt(config.swap_s * pool.config.cold_start_s)
        scaler = SharedScaler(
            calls.slots.length,
            calls.config.policy,
            swap,
            weights=weights,
            cold_start_s=calls.cold_start_s,
            tick_s=tick_s,
            jobs_policy=pools[config.jobs].config.policy,
        )
        slowest_s = max(pools[each].config.cold_start_s for each in (config.calls, config.jobs))
        most_s = drain_within_s + STARTS_OF_A_SWAP * slowest_s
        return cls(config.calls, config.jobs, scaler, most_s)

    def replanned(
        self,
        decided: Sequence[Decided],
        waiting: Mapping[str, PoolBacklog],
        changes: Sequence[Change],
    ) -> tuple[list[Decided], list[Change]]:
        """Give all decisions, those of the two pools planned together, and the swaps that are over;
        where one of the two could not be looked at, nothing is done with the other.
        """
        by_model = {each.model: each for each in decided}
        if not {self.calls, self.jobs} <= by_model.keys():
            return [each for each in decided if each.model not in {self.calls, self.jobs}], []
        calls, jobs = by_model[self.calls], by_model[self.jobs]
        to_calls = self._underway(changes, jobs, calls)
        to_jobs = self._underway(changes, calls, jobs)
        backlog = waiting.get(self.jobs)
        first, second = self.plan(calls, jobs, backlog, to_calls=to_calls, to_jobs=to_jobs)
        by_model |= {self.calls: first, self.jobs: second}
        return list(by_model.values()), [*to_calls.over, *to_jobs.over]

    def _underway(self, changes: Sequence[Change], source: Decided, target: Decided) -> Underway:
        return underway(
            changes,
            target.model,
            source=source.stand,
            target=target.stand,
            now=target.view.at,
            most_s=self.most_s,
        )

    def plan(
        self,
        calls: Decided,
        jobs: Decided,
        backlog: PoolBacklog | None,
        *,
        to_calls: Underway,
        to_jobs: Underway,
    ) -> tuple[Decided, Decided]:
        """Give both pools' decisions with plans that go together."""
        view = replace(
            calls.view,
            starting=(*calls.view.starting, *((calls.view.at,) * to_calls.count)),
            blind=calls.view.blind or jobs.view.blind,
        )
        filler = FillerView(
            jobs.view.ready,
            len(jobs.view.starting) + to_jobs.count,
            backlog_of(backlog, jobs.pool.config.replicas_per_unit),
            0.0 if backlog is None else backlog.waiting_s / jobs.pool.config.replicas_per_unit,
        )
        moves = self.scaler.step(view, filler, calls.row)
        first, second = plans_of(
            moves,
            calls.view,
            jobs.view,
            come_calls=len(to_calls.free),
            come_jobs=len(to_jobs.free),
            give_up_jobs=jobs.plan.give_up,
        )
        to_them = Exchange(self.calls, self.jobs, moves.to_jobs, to_calls.free)
        to_us = Exchange(self.calls, self.calls, moves.to_calls, to_jobs.free)
        return (
            replace(calls, plan=first, exchange=to_them),
            replace(jobs, plan=second, exchange=to_us),
        )


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
