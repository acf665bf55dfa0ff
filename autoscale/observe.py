"""What is going on? Signals of gateways, the registry and the actuator become one observation.

What is missing or stale is known to be so: a gateway whose signal stands still, a store that does
not answer, or a registry with replicas and not one gateway make the observation blind. A replica
that does not answer blinds nobody: it counts as stuck, alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from autoscale.actuate.unit import Unit, UnitState
from autoscale.plan import PoolView
from autoscale.traces import Floats
from backends.fleet import HealthState, Pool
from backends.signals import Counters, Key, Signal

MOST_TENANTS = 64
STALE_S = 5.0
# Calls whose lengths were guessed are corrected by what the same class's calls turned out to be.
_LEAST_DONE_S = 1.0
_CORRECTION = (0.2, 5.0)


@dataclass(frozen=True, slots=True)
class Arrived:
    """What came for one model since the last look: work in GPU-seconds by (class, tenant)."""

    work_s: Mapping[tuple[str, str], float] = field(default_factory=dict)
    offered: int = 0
    refused: int = 0
    kept: int = 0
    broken: int = 0
    waiting_work_s: float = 0.0
    oldest_wait_s: float = 0.0
    elapsed_s: float = 0.0

    @property
    def missed_share(self) -> float:
        """The share of promises that were broken; 0 where none ended."""
        ended = self.kept + self.broken
        return self.broken / ended if ended else 0.0


class SignalReader:
    """Turns cumulative documents into what is new, per model; one `take` per tick."""

    def __init__(self) -> None:
        self._before: dict[str, Signal] = {}
        self._at: float | None = None
        self._seen: dict[str, tuple[float, float]] = {}  # gateway -> its `at`, when that was new

    def take(self, signals: Sequence[Signal], now: float) -> tuple[Mapping[str, Arrived], bool]:
        """Give what is new by model, and whether any gateway's signal stands still (or all are
        gone). Gateways' clocks are not compared with ours: only whether `at` moves.
        """
        elapsed_s = 0.0 if self._at is None else max(now - self._at, 0.0)
        stale = not signals
        new: dict[Key, Counters] = {}
        for signal in signals:
            stale = self._stands_still(signal, now) or stale
            for key, counters in self._since(signal).items():
                new[key] = new[key].plus(counters) if key in new else counters
            self._before[signal.gateway] = signal
        self._forget({signal.gateway for signal in signals})
        self._at = now
        models = {key[0] for key in new} | {m for s in signals for m, _ in s.gauges}
        return {m: _arrived(m, new, signals, now, elapsed_s) for m in models}, stale

    def _since(self, signal: Signal) -> Mapping[Key, Counters]:
        before = self._before.get(signal.gateway)
        if before is None and self._at is None:
            return {}  # the first look: what came before is not this tick's
        if before is None or before.epoch != signal.epoch:
            return signal.counters
        return {k: c.since(before.counters.get(k)) for k, c in signal.counters.items()}

    def _stands_still(self, signal: Signal, now: float) -> bool:
        known = self._seen.get(signal.gateway)
        if known is None or known[0] != signal.at:
            self._seen[signal.gateway] = (signal.at, now)
            return False
        return now - known[1] > STALE_S

    def _forget(self, alive: set[str]) -> None:
        for gone in self._before.keys() - alive:
            del self._before[gone]
            self._seen.pop(gone, None)


def _arrived(
    model: str,
    new: Mapping[Key, Counters],
    signals: Sequence[Signal],
    now: float,
    elapsed_s: float,
) -> Arrived:
    mine = {(c, t): each for (m, c, t), each in new.items() if m == model}
    done = sum(each.done_work_s for each in mine.values())
    guessed = sum(each.estimated_work_s for each in mine.values())
    correction = 1.0
    if guessed > _LEAST_DONE_S:
        correction = min(max(done / guessed, _CORRECTION[0]), _CORRECTION[1])
    gauges = [g for s in signals for (m, _), g in s.gauges.items() if m == model]
    oldest = [g.oldest_at for g in gauges if g.waiting and g.oldest_at]
    return Arrived(
        {key: each.offered_work_s * correction for key, each in mine.items()},
        sum(each.offered for each in mine.values()),
        sum(each.refused for each in mine.values()),
        sum(each.kept for each in mine.values()),
        sum(each.broken for each in mine.values()),
        sum(g.waiting_work_s for g in gauges),
        max((now - at for at in oldest), default=0.0),
        elapsed_s,
    )


class TenantSlots:
    """Which tenant has which place in a row of fixed length; all others share the last one."""

    def __init__(self, length: int = MOST_TENANTS) -> None:
        self.length = length
        self._places: dict[str, int] = {}
        self._last: dict[str, int] = {}
        self._tick = 0

    def row(self, work: Mapping[str, float]) -> Floats:
        """Put work by tenant into a row; a place is taken from whoever was silent longest."""
        self._tick += 1
        row: Floats = np.zeros(self.length)
        for tenant, amount in work.items():
            if amount > 0.0:
                row[self._place(tenant)] += amount
        return row

    def _place(self, tenant: str) -> int:
        place = self._places.get(tenant)
        if place is None:
            if len(self._places) < self.length - 1:
                place = len(self._places)
            else:
                idle = min(self._last, key=lambda name: self._last[name])
                if self._tick - self._last[idle] < 360:
                    return self.length - 1
                place = self._places.pop(idle)
                del self._last[idle]
            self._places[tenant] = place
        self._last[tenant] = self._tick
        return place


def row_of(
    arrived: Arrived, shares: Mapping[str, float], *, replicas_per_unit: int
) -> dict[str, float]:
    """Give the units that each tenant's work would need by itself: work / share / elapsed."""
    work: dict[str, float] = {}
    elapsed_s = max(arrived.elapsed_s, 1e-9)
    for (class_name, tenant), amount in arrived.work_s.items():
        per_s = shares.get(class_name, 0.0) * replicas_per_unit
        if per_s > 0.0:
            work[tenant] = work.get(tenant, 0.0) + amount / per_s / elapsed_s
    return work


@dataclass(frozen=True, slots=True)
class Standing:
    """A pool's units by state: those that calls go to, that start, drain, and that are stuck."""

    serving: tuple[Unit, ...] = ()
    starting: tuple[Unit, ...] = ()
    draining: tuple[Unit, ...] = ()
    stuck: tuple[Unit, ...] = ()
    foreign: int = 0  # routable replicas that no unit of ours stands for


def standing(units: Sequence[Unit], pool: Pool, *, now: float, cold_start_s: float) -> Standing:
    """Sort units by what actuator and registry say together.

    A unit serves when one of its replicas is routable, or, where its replicas are not known, when
    its actuator says so. One that served and is not routable now is stuck, as is one that failed.
    A replica has a lease only once it has served, so that one which was ejected is no start. A
    start stays a start however long it takes: giving it up is the plan's.
    """
    health = {s.replica.id: s.health.state for s in pool.standings}
    groups: dict[str, list[Unit]] = {"serving": [], "starting": [], "draining": [], "stuck": []}
    for unit in units:
        states = [health[id_] for id_ in unit.replicas if id_ in health]
        groups[_group(unit, states, now, cold_start_s)].append(unit)
    ours = {id_ for unit in units for id_ in unit.replicas}
    foreign = sum(1 for s in pool.routable if s.replica.id not in ours)
    return Standing(
        **{name: tuple(group) for name, group in groups.items()},
        foreign=foreign,
    )


def _group(unit: Unit, states: Sequence[HealthState], now: float, cold_start_s: float) -> str:
    if unit.state is UnitState.DRAINING or HealthState.DRAINING in states:
        return "draining"
    if unit.state is UnitState.FAILED:
        return "stuck"
    if HealthState.READY in states:
        return "serving"
    if unit.state is UnitState.SERVING and not unit.replicas:
        return "serving"
    if HealthState.EJECTED in states:
        return "stuck"
    silent = unit.served_at is not None and now - unit.served_at > cold_start_s
    return "stuck" if silent else "starting"


def view_of(
    stand: Standing,
    arrived: Arrived,
    units_of_work: float,
    shares: Mapping[str, float],
    *,
    now: float,
    blind: bool,
    cold_start_s: float,
    last_call_at: float,
    deferrable: float = 0.0,
    replicas_per_unit: int = 1,
) -> PoolView:
    """Put a pool's observation into units."""
    best = max(shares.values(), default=1.0) or 1.0
    return PoolView(
        at=now,
        ready=len(stand.serving) + stand.foreign,
        starting=tuple(sorted(unit.asked_at for unit in stand.starting)),
        draining=len(stand.draining),
        stuck=len(stand.stuck),
        offered=units_of_work,
        missed=units_of_work * arrived.missed_share,
        waiting_s=arrived.waiting_work_s / best / replicas_per_unit,
        oldest_wait_s=arrived.oldest_wait_s,
        deferrable=deferrable,
        last_call_at=last_call_at,
        blind=blind,
        cold_start_s=cold_start_s,
    )
