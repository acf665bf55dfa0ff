"""How do replicas start, step and leave in virtual time?"""

import heapq
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random

from autoscale.replay.kind import Kind
from backends.simulated.core import EngineCore
from backends.simulated.sequences import Event, Sequence


@dataclass(slots=True, eq=False)
class Unit:
    """One replica, and what runs on it; `scheduled` is the instant of its next step."""

    id: str
    core: EngineCore
    running: set[Sequence] = field(default_factory=set)
    draining: bool = False
    scheduled: float = math.inf


class UnitFleet:
    """The replicas that are there and those that start. Instants are seconds of the replay."""

    def __init__(
        self, kind: Kind, *, cold_start_s: float, dice: Random, numbers: Iterator[int]
    ) -> None:
        self._kind = kind
        self._cold_start_s = cold_start_s
        self._dice = dice
        self._numbers = numbers
        self._units: dict[str, Unit] = {}
        self._starting: list[tuple[float, float]] = []  # ready at, asked at
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
        """When each pending start was asked for."""
        return tuple(sorted(asked for _, asked in self._starting))

    @property
    def paid(self) -> int:
        """How many are paid for: all that are there, and those that start."""
        return len(self._units) + len(self._starting)

    @property
    def next_step_at(self) -> float:
        """When one of them steps next; infinity while all are idle."""
        return self._steps[0][0] if self._steps else math.inf

    def add(self) -> None:
        """Let one more serve."""
        name = f"r{next(self._numbers)}"
        self._units[name] = Unit(name, EngineCore(self._kind.law, self._kind.limits()))

    def remove_drained(self) -> None:
        """Let those go that have finished."""
        for unit in [u for u in self._units.values() if u.draining and not u.running]:
            del self._units[unit.id]

    def start_due(self, now: float) -> None:
        """Let those serve whose start is over."""
        while self._starting and self._starting[0][0] <= now:
            heapq.heappop(self._starting)
            self.add()

    def change_to(self, target: int, now: float) -> None:
        """Start units, or give starts up and drain, the youngest start and the least busy first."""
        serving = self.serving
        change = target - len(serving) - len(self._starting)
        if not change:
            return
        self.actions += 1
        for _ in range(change):
            takes_s = self._cold_start_s * self._dice.lognormvariate(-0.045, 0.3)
            heapq.heappush(self._starting, (now + takes_s, now))
        while change < 0 and self._starting:
            self._starting.remove(max(self._starting, key=lambda start: start[1]))
            heapq.heapify(self._starting)
            change += 1
        if change < 0:
            for unit in sorted(serving, key=lambda each: len(each.running))[:-change]:
                unit.draining = True

    def admit(self, unit_id: str, sequence: Sequence, now: float) -> bool:
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
