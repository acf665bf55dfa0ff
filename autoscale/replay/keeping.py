"""For which class is each replica kept, and how far may each class fill it? As gateways decide."""

from collections.abc import Callable, Mapping, Sequence
from math import inf

from autoscale.replay.fleet import Unit
from autoscale.replay.kind import Kind
from backends.capacity import work_s
from backends.slo import Class
from gateway.levels import Demand, Level, levels, too_far
from gateway.pools import within
from gateway.queue.ledger import Candidate, Cost

LOOK_S = 0.5  # as often as gateways look at their pools


class Keeping:
    """What classes have asked for, and what each replica is kept for because of it."""

    def __init__(self, kind: Kind) -> None:
        self._kind = kind
        self._demand = {name: Demand() for name in kind.classes}
        self.kept: Mapping[str, Level] = {}

    def ask(self, class_name: str, work: float, now: float) -> None:
        """Take in a call's work in seconds of the first site's law."""
        self._demand[class_name].ask(work, now)

    def asked_before(self, klass: Class, now: float) -> float:
        """Give the work per second that classes ask for that go before this one."""
        return sum(
            self._demand[name].now(now)
            for name, each in self._kind.classes.items()
            if each.rank < klass.rank
        )

    def look(self, units: Sequence[Unit], held: Callable[[str], Cost], now: float) -> bool:
        """Choose anew; whether anything has changed."""
        kind = self._kind
        alive = [name for name, demand in self._demand.items() if demand.is_alive(now)]
        targets = {n: kind.targets(kind.classes[n]) for n in alive}
        alive.sort(key=lambda n: targets[n].tpot_s or inf)
        call_s = work_s(kind.law, kind.mix)
        far = too_far({unit.id: unit.site.rtt_s for unit in units}, targets)
        each = {}
        for n in alive:
            near = [unit.site for unit in units if unit.id not in far.get(n, ())]
            each[n] = sum(call_s / site.kind.call_s(n) for site in near) / max(len(near), 1)
        before = self.kept
        self.kept = levels(
            alive,
            {name: self._demand[name].now(now) for name in alive},
            each,
            sorted((unit.id for unit in units), key=lambda id_: (held(id_).sequences, id_)),
            before,
            generous=bool(alive) and targets[alive[-1]].tpot_s is None,
            far=far,
        )
        return self.kept != before

    def bounds(self, unit: Unit) -> Mapping[str, Candidate]:
        """Say how far each class may fill a replica."""
        kind = unit.site.kind
        own = {
            name: Candidate(unit.id, b.sequences, b.kv_tokens, b.prefill_tokens)
            for name, b in kind.bounds().items()
        }
        level = self.kept.get(unit.id)
        if level is None:
            return own
        kept, rank = own[level.name], kind.classes[level.name].rank
        return {
            name: within(
                each,
                kept,
                looser=kind.classes[name].rank > rank,
                alone=level.alone,
                promises=kind.targets(kind.classes[name]).tpot_s is not None,
            )
            for name, each in own.items()
        }
