"""What is kept of a pool from tick to tick, and what does one look at its units find?"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from autoscale.actuate.unit import Unit, UnitState
from autoscale.capacity import Slowness, learned
from autoscale.config import KindConfig, PoolConfig
from autoscale.forecast import Weights
from autoscale.lives import Lives
from autoscale.mixing import Lately, Mixed
from autoscale.observe import Standing, TenantSlots
from autoscale.places import Place
from autoscale.scaler import PoolScaler, start_learnt
from autoscale.stock import Stock
from backends import fleet as fleets
from backends.capacity import StepLaw
from backends.fleet import Load, Replica


@dataclass(slots=True)
class WatchedKind:
    """What is kept of one kind of a pool's units; `units` are those that were last listed."""

    config: KindConfig
    cold_start_s: float
    slowness: Slowness = field(default_factory=Slowness)
    loads: dict[str, Load] = field(default_factory=dict)
    served_at: dict[str, float] = field(default_factory=dict)
    lives: Lives = field(default_factory=Lives)
    starts_seen: int = 0
    least_start_s: float = 0.0  # what took less was a swap, and says nothing of a cold start
    units: tuple[Unit, ...] = ()

    def learn_start(self, start_s: float) -> None:
        """Take in how long a start took."""
        if self.least_start_s < start_s < 10 * self.cold_start_s:
            self.cold_start_s = start_learnt(self.cold_start_s, start_s, self.starts_seen)
            self.starts_seen += 1

    def learn_law(self, standings: Sequence[fleets.Standing], law: StepLaw, now: float) -> None:
        """Take in what its routable replicas report of their speed."""
        for each in standings:
            id_, load = each.replica.id, each.load
            self.served_at.setdefault(id_, now)
            before = self.loads.get(id_)
            if load is None or (before is not None and before.at >= load.at):
                continue
            if before is not None:
                serving_s = now - self.served_at[id_]
                self.slowness = learned(self.slowness, law, before, load, serving_s=serving_s)
            self.loads[id_] = load


@dataclass(slots=True)
class WatchedPool:
    """What is kept of a pool."""

    config: PoolConfig
    scaler: PoolScaler
    slots: TenantSlots
    kinds: tuple[WatchedKind, ...]
    last_call_at: float = 0.0
    mixed: Mixed = field(default_factory=Mixed)
    lately: Lately = field(default_factory=Lately)

    @classmethod
    def of(
        cls, config: PoolConfig, weights: Weights, *, tick_s: float, now: float
    ) -> "WatchedPool":
        """Begin with what is configured; nothing has been seen of it yet."""
        slots = TenantSlots()
        scaler = PoolScaler(
            slots.length,
            config.policy,
            weights=weights,
            cold_start_s=config.cold_start_s,
            tick_s=tick_s,
        )
        kinds = tuple(WatchedKind(each, each.cold_start_s) for each in config.every_kind)
        return cls(config, scaler, slots, kinds, last_call_at=now)

    @property
    def cold_start_s(self) -> float:
        """How far the forecast has to look: as long as the slowest kind takes to start."""
        return max(kind.cold_start_s for kind in self.kinds)


@dataclass(frozen=True, slots=True)
class Look:
    """One kind of a pool's units at an instant: how they stand, and the work per second that a
    replica does for each class. `lost` are to be ended, `late` are starts that are given up;
    `is_seen` False: they could not be listed, and are taken to be as they were.
    """

    kind: WatchedKind
    stand: Standing
    shares: Mapping[str, float]
    lost: tuple[str, ...] = ()
    late: tuple[Unit, ...] = ()
    is_seen: bool = True

    @property
    def has_failed(self) -> bool:
        """Whether a start of it has just failed."""
        return any(u.state is UnitState.FAILED and u.served_at is None for u in self.stand.stuck)

    @property
    def is_troubled(self) -> bool:
        """Whether its starts go wrong just now, or cannot be seen."""
        return self.has_failed or bool(self.late) or not self.is_seen

    @property
    def present(self) -> int:
        """How many there are in any state; replicas that are not ours count as units."""
        stand = self.stand
        groups = (stand.serving, stand.starting, stand.draining, stand.stuck)
        return sum(len(group) for group in groups) + stand.foreign

    @property
    def place(self) -> Place:
        """As the kind compares with others."""
        config = self.kind.config
        does = {name: share * config.replicas_per_unit for name, share in self.shares.items()}
        start_s = self.kind.cold_start_s
        return Place(config.name, does, config.rtt_s, config.cost, config.most, start_s)

    def stock(self, most_starts: float) -> Stock:
        """As the plan is made into moves; no more than so many may start."""
        config, late = self.kind.config, {unit.name for unit in self.late}
        room = 0 if self.is_troubled else max(0, config.most - self.present)
        return Stock(
            len(self.stand.serving),
            tuple(u.asked_at for u in self.stand.starting if u.name not in late),
            self.stand.foreign / config.replicas_per_unit,
            int(min(room, most_starts)),
            fixed=not self.is_seen,
        )


@dataclass(frozen=True, slots=True)
class Part:
    """What is done with one kind of a pool's units, and why."""

    look: Look
    start: int = 0
    cancel: int = 0
    drain: int = 0
    give_up: int = 0
    why: str = ""

    @property
    def target(self) -> int:
        """How many units of it shall serve or start."""
        have = len(self.look.stand.serving) + len(self.look.stand.starting)
        return have + self.start - self.cancel - self.drain - self.give_up

    @property
    def key(self) -> str:
        """The name by which its actuator knows the kind."""
        return self.look.kind.config.key

    @property
    def acts(self) -> bool:
        """Whether anything is to be done."""
        done = self.start or self.cancel or self.drain or self.give_up
        return bool(done or self.look.lost)


def owner(replica: Replica, kinds: Sequence[WatchedKind]) -> int:
    """Say of which kind a replica is, by index: of the one whose unit it belongs to, else of the
    first on its hardware and at its site, else of the first.
    """
    for i, kind in enumerate(kinds):
        if any(replica.id in unit.replicas for unit in kind.units):
            return i
    for i, kind in enumerate(kinds):
        here = kind.config.site in {None, replica.site}
        if kind.config.hardware == replica.hardware and here:
            return i
    return 0
