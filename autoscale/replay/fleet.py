"""How do replicas start, step and leave in virtual time?"""

import heapq
import itertools
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from random import Random

from autoscale.replay.sites import Site, at_home, planned, to_end, to_start
from backends.simulated.core import EngineCore
from backends.simulated.sequences import Event
from backends.simulated.sequences import Sequence as EngineSequence

NEARLY = 1e-9


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
        self._worth = planned(sites)
        self._home = at_home(sites)
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
    def asked_at(self) -> tuple[float, ...]:
        """When the pending starts were asked for, one instant for each whole unit's worth."""
        found: list[float] = []
        worth = self.ready_worth - int(self.ready_worth + NEARLY)
        for _, asked, site in sorted(self._starting, key=lambda start: start[1]):
            worth += self._worth[site]
            while worth >= 1.0 - NEARLY:
                found.append(asked)
                worth -= 1.0
        return tuple(found)

    @property
    def ready_worth(self) -> float:
        """What those that calls may go to are worth."""
        return sum(self.worth_of(unit) for unit in self.serving)

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
        return self._worth[self._sites.index(unit.site)]

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
        pending = sum(self._worth[site] for _, _, site in self._starting)
        change = target - self.ready_worth - pending
        spare_at_home = self._worth_at_home() - bound * target
        counts = self.count()
        there = [counts.get(each.name, 0) for each in self._sites]
        home = [w if i in self._home else 0.0 for i, w in enumerate(self._worth)]
        started = to_start(-spare_at_home, there, self._sites, home)
        gained = sum(self._worth[site] for site in started)
        change, spare_at_home = change - gained, spare_at_home + gained
        for site in started:
            there[site] += 1
        started += to_start(change, there, self._sites, self._worth)
        for site in started:
            takes_s = self._sites[site].cold_start_s * self._dice.lognormvariate(-0.045, 0.3)
            heapq.heappush(self._starting, (now + takes_s, now, site))
        ended = self._give_up(-change, spare_at_home, now)
        self.actions += bool(started or ended)

    def _worth_at_home(self) -> float:
        """What serves or starts where calls of every class may go is worth."""
        there = [self._sites.index(unit.site) for unit in self.serving]
        there += [site for _, _, site in self._starting]
        return sum(self._worth[site] for site in there if site in self._home)

    def _give_up(self, spare: float, spare_at_home: float, now: float) -> int:
        """Cancel older starts and drain, worth no more than `spare` together; say how many."""
        ended = 0
        for start in sorted(self._starting, key=lambda start: -start[1]):
            worth, is_home = self._worth[start[2]], start[2] in self._home
            if worth > spare + NEARLY or start[1] == now:
                continue
            if is_home and worth > spare_at_home + NEARLY:
                continue
            self._starting.remove(start)
            spare, spare_at_home = spare - worth, spare_at_home - worth * is_home
            ended += 1
        heapq.heapify(self._starting)
        by_busy = sorted(self.serving, key=lambda each: len(each.running))
        counts = Counter(unit.site.name for unit in by_busy)
        there = [counts[each.name] for each in self._sites]
        for site in to_end(
            spare,
            there,
            self._sites,
            self._worth,
            home=self._home,
            spare_at_home=spare_at_home,
        ):
            unit = next(u for u in by_busy if u.site == self._sites[site] and not u.draining)
            unit.draining = True
            ended += 1
        return ended

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
