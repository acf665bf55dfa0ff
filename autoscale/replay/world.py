"""In which order do arrivals, engine steps and ticks of the autoscaler follow each other?"""

import itertools
import math
from collections.abc import Sequence
from random import Random

import numpy as np

from autoscale.fluid import Scaler
from autoscale.mixing import Lately
from autoscale.plan import PoolView
from autoscale.replay.calls import Calls
from autoscale.replay.fleet import UnitFleet
from autoscale.replay.kind import Kind
from autoscale.replay.sites import Site
from autoscale.replay.tally import Replayed, Tally, worst_window
from autoscale.traces import Arrival, Floats
from backends.capacity import Mix, work_s

TENANTS = 64  # rows of work that a rule is shown; tenants beyond share the last


def replay(
    arrivals: Sequence[Arrival],
    kind: Kind,
    scaler: Scaler,
    *,
    units: int,
    cold_start_s: float = 240.0,
    tick_s: float = 10.0,
    default_class: str = "interactive",
    seed: int = 1,
    sites: Sequence[Site] = (),
) -> Replayed:
    """Replay calls in order of arrival; a rule scales the fleet, of which `units` are there.

    With `sites` replicas are of these kinds, of the first of which `units` are there; without, all
    are of `kind` and near.
    """
    world = _World(
        sites[0].kind if sites else kind,
        sites or (Site("here", kind, cold_start_s=cold_start_s),),
        scaler,
        units=units,
        tick_s=tick_s,
        default_class=default_class,
        seed=seed,
    )
    start = arrivals[0].at_s if arrivals else 0.0
    next_tick = tick_s
    for arrival in arrivals:
        at = arrival.at_s - start
        while next_tick <= at:
            world.run_until(next_tick)
            world.tick(next_tick)
            next_tick += tick_s
        world.run_until(at)
        world.arrive(arrival, at)
    world.finish(next_tick)
    return world.outcome()


class _World:
    def __init__(
        self,
        kind: Kind,
        sites: Sequence[Site],
        scaler: Scaler,
        *,
        units: int,
        tick_s: float,
        default_class: str,
        seed: int,
    ) -> None:
        self._kind = kind
        self._scaler = scaler
        self._cold_start_s = max(each.cold_start_s for each in sites)
        self._tick_s = tick_s
        dice, numbers = Random(seed), itertools.count(1)
        self._fleet = UnitFleet(sites, dice=dice, numbers=numbers)
        self._calls = Calls(
            kind, self._fleet, default_class=default_class, dice=dice, numbers=numbers
        )
        self._now = 0.0
        self._work: dict[str, float] = {}
        self._tenants: dict[str, int] = {}
        self._counted = {name: 0 for name in kind.classes}
        self._unit_s = 0.0
        self._by_tick: list[float] = []
        self._most: dict[str, int] = {}
        self._lately = Lately()
        self._bound_work = self._all_work = 0.0  # since the last tick, in units
        for _ in range(units):
            self._fleet.add()
        self._calls.use(self._fleet.serving, self._now)

    def run_until(self, until: float) -> None:
        """Let engines step and waits end until an instant."""
        while True:
            step_at, wait_at = self._fleet.next_step_at, self._calls.next_end_of_wait_at
            at = min(step_at, wait_at)
            if at > until:
                break
            self._now = at
            if wait_at <= step_at:
                self._calls.end_next_wait(at)
                continue
            for event in self._fleet.step(at):
                self._calls.note(event, at)
        self._now = until

    def arrive(self, arrival: Arrival, at: float) -> None:
        """Count the work of a call, and offer it."""
        klass = self._calls.class_of(arrival)
        mix = Mix(max(arrival.input_tokens, 1), max(arrival.output_tokens, 1))
        share = max(self._kind.share(klass.name), 1e-9)
        units = work_s(self._kind.law, mix) / share / self._tick_s
        self._work[arrival.tenant] = self._work.get(arrival.tenant, 0.0) + units
        self._all_work += units
        self._bound_work += units * (klass.name in self._fleet.mixture.bound)
        self._calls.arrive(arrival, at)

    def tick(self, at: float) -> None:
        """Pay, let starts become ready, and let the rule decide."""
        self._fleet.remove_drained()
        self._unit_s += self._fleet.paid * self._tick_s
        self._fleet.start_due(at)
        for name, count in self._fleet.count().items():
            self._most[name] = max(self._most.get(name, 0), count)
        row = self._row()
        offered = float(row.sum())
        self._by_tick.append(offered)
        ready, starting = self._fleet.counted
        view = PoolView(
            at=at,
            ready=ready,
            starting=starting,
            draining=self._fleet.draining,
            offered=offered,
            missed=offered * self._missed_share(),
            waiting_s=self._calls.backlog_s / max(self._calls.does_per_s.values()),
            oldest_wait_s=self._calls.oldest_wait_s(at),
            last_call_at=at,
            cold_start_s=self._cold_start_s,
        )
        self._lately = self._lately.after(self._bound_work, self._all_work, self._tick_s)
        self._bound_work = self._all_work = 0.0
        bound = self._lately.share if self._fleet.mixture.bound else 0.0
        self._fleet.change_to(self._scaler.decide(view, row), at, bound=bound)
        self._calls.use(self._fleet.serving, self._now)

    def finish(self, at: float) -> None:
        """Let what is in flight end."""
        while min(self._fleet.next_step_at, self._calls.next_end_of_wait_at) < math.inf:
            self.run_until(at)
            at += self._tick_s

    def outcome(self) -> Replayed:
        """Sum up."""
        return Replayed(
            {name: Tally.of(ended) for name, ended in self._calls.ended.items() if ended},
            self._unit_s,
            self._fleet.actions,
            self._calls.dropped,
            self._now,
            worst_window(each for ended in self._calls.ended.values() for each in ended),
            self._by_tick,
            self._most,
        )

    def _missed_share(self) -> float:
        """Give the share of the calls ended since the last look that missed their promise."""
        new = [
            each
            for name, ended in self._calls.ended.items()
            for each in ended[self._counted[name] :]
        ]
        self._counted = {name: len(ended) for name, ended in self._calls.ended.items()}
        return sum(not each.kept for each in new) / len(new) if new else 0.0

    def _row(self) -> Floats:
        """Give the work since the last look by tenant, in units."""
        row: Floats = np.zeros(TENANTS)
        for tenant, units in self._work.items():
            row[self._tenants.setdefault(tenant, min(len(self._tenants), TENANTS - 1))] += units
        self._work.clear()
        return row
