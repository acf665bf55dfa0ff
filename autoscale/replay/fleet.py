"""How do replicas start, step and leave in virtual time?"""

import heapq
import itertools
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from random import Random

from autoscale.mixing import Mixed, moves
from autoscale.replay.sites import Site, mixture_of
from autoscale.stock import Stock, counted
from backends.simulated.core import EngineCore
from backends.simulated.sequences import Event
from backends.simulated.sequences import Sequence as EngineSequence


@dataclass(slots=True, eq=False)
class Unit:
    """One replica, and what runs on it; `scheduled` is the instant of its next step."""

    id: str
    site: Site
    core: EngineCore
    running: set[EngineSequence] = field(default_factory=set)
    draining: bool = False
    scheduled: float = math.inf


class UnitFleet:
    """The replicas that are there and those that start. Instants are seconds of the replay; worth
    is in units of the first site.
    """

    def __init__(self, sites: Sequence[Site], *, dice: Random, numbers: Iterator[int]) -> None:
        self._sites = sites
        self.mixture = mixture_of(sites)
        self._mixed = Mixed()
        self._dice = dice
        self._numbers = numbers
        self._units: dict[str, Unit] = {}
        self._starting: list[tuple[float, float, int]] = []  # ready at, asked at, site
        self._steps: list[tuple[float, int, str]] = []
        self._order = itertools.count()
        self.actions = 0

    @property
    def serving(self) -> list[Unit]:
        """Those that calls may go to."""
        return [unit for unit in self._units.values() if not unit.draining]

    @property
    def draining(self) -> int:
        """How many finish what they have."""
        return sum(unit.draining for unit in self._units.values())

    @property
    def counted(self) -> tuple[int, tuple[float, ...]]:
        """What serves, and when what starts was asked for, in whole units of the first site."""
        return counted(self._mixed.trading.without_pending(self._stocks()), self.mixture)

    @property
    def paid(self) -> float:
        """What is paid for: the cost of all that are there, and of those that start."""
        there = sum(unit.site.cost for unit in self._units.values())
        return there + sum(self._sites[site].cost for _, _, site in self._starting)

    @property
    def next_step_at(self) -> float:
        """When one of them steps next; infinity while all are idle."""
        return self._steps[0][0] if self._steps else math.inf

    def worth_of(self, unit: Unit) -> float:
        """Say what a replica is worth."""
        return self.mixture.worth[self._sites.index(unit.site)]

    def count(self) -> dict[str, int]:
        """Count what is there, by site; what drains or starts is there, too."""
        names = [unit.site.name for unit in self._units.values()]
        return dict(Counter([*names, *(self._sites[site].name for _, _, site in self._starting)]))

    def add(self, site: int = 0) -> None:
        """Let one more serve."""
        name, of = f"r{next(self._numbers)}", self._sites[site]
        self._units[name] = Unit(name, of, EngineCore(of.kind.law, of.kind.limits()))

    def site_of(self, unit_id: str) -> Site:
        """Say where a replica stands."""
        return self._units[unit_id].site

    def remove_drained(self) -> None:
        """Let those go that have finished."""
        for unit in [u for u in self._units.values() if u.draining and not u.running]:
            del self._units[unit.id]

    def start_due(self, now: float) -> None:
        """Let those serve whose start is over."""
        while self._starting and self._starting[0][0] <= now:
            self.add(heapq.heappop(self._starting)[2])

    def change_to(self, target: int, now: float, *, bound: float = 0.0) -> None:
        """Start units, or give starts up and drain, the youngest start and the least busy first.

        `bound` is the share of the target that only sites can serve which all calls may go to.
        """
        stocks = self._stocks()
        done, self._mixed = moves(target, stocks, self.mixture, self._mixed, bound=bound, now=now)
        by_busy = sorted(self.serving, key=lambda each: len(each.running))
        for site, move in enumerate(done):
            of = self._sites[site]
            mine = sorted((s for s in self._starting if s[2] == site), key=lambda s: -s[1])
            for start in mine[: move.cancel]:
                self._starting.remove(start)
            for unit in [u for u in by_busy if u.site == of][: move.drain]:
                unit.draining = True
            for _ in range(move.start):
                takes_s = of.cold_start_s * self._dice.lognormvariate(-0.045, 0.3)
                self._starting.append((now + takes_s, now, site))
        heapq.heapify(self._starting)
        self.actions += any(move.acts for move in done)

    def _stocks(self) -> list[Stock]:
        """What there is of each site."""
        serving = Counter(unit.site.name for unit in self.serving)
        there = self.count()
        return [
            Stock(
                serving[each.name],
                tuple(asked for _, asked, site in self._starting if site == i),
                room=max(0, each.most - there.get(each.name, 0)),
            )
            for i, each in enumerate(self._sites)
        ]

    def admit(self, unit_id: str, sequence: EngineSequence, now: float) -> bool:
        """Give a sequence to a replica; False where it has gone."""
        unit = self._units.get(unit_id)
        if unit is None:
            return False
        unit.running.add(sequence)
        unit.core.admit(sequence, now)
        self._schedule(unit)
        return True

    def step(self, now: float) -> Iterator[Event]:
        """Take the next step; what happens in it, in order, may give the replica more to do."""
        at, _, unit_id = heapq.heappop(self._steps)
        unit = self._units.get(unit_id)
        if unit is None or at != unit.scheduled:
            return
        unit.scheduled = math.inf
        for event in unit.core.step(now):
            if event.sequence not in unit.running:
                continue
            if event.finish is not None:
                unit.running.remove(event.sequence)
            yield event
        self._schedule(unit)

    def _schedule(self, unit: Unit) -> None:
        at = unit.core.next_at
        if at is not None and at < unit.scheduled:
            unit.scheduled = at
            heapq.heappush(self._steps, (at, next(self._order), unit.id))
