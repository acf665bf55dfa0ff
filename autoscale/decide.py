"""What shall become of a pool's units, by what is seen of them and of its calls?

observe -> forecast -> plan for one pool; `loop` does it for each and shares the budget out.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import inf

from autoscale.actuate.unit import ActuationFailed, Actuator
from autoscale.capacity import class_share, slower
from autoscale.forecast import Forecast
from autoscale.mixing import Mixed
from autoscale.observe import Arrived, Standing, row_of, standing, view_of
from autoscale.places import Mixture
from autoscale.plan import Guard, Plan, PoolView
from autoscale.sharing import backlog_of, jobs_need
from autoscale.stock import counted
from autoscale.swaps import Exchange
from autoscale.traces import Floats
from autoscale.watched import Look, Part, WatchedKind, WatchedPool, owner
from backends.backlogs import PoolBacklog
from backends.clock import Clock
from backends.hardware import Profile
from backends.measured import BUILT_IN, Profiles
from backends.registry import Registry
from backends.slo import Class

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Decided:
    """A pool's decision with what it stands on; `bound` is the share of its work that may not go to
    every kind, `parts` are what is done with each kind (`spread`), and `exchange` says what of it
    belongs to swaps.
    """

    pool: WatchedPool
    plan: Plan
    view: PoolView
    forecast: Forecast
    looks: tuple[Look, ...]
    row: Floats
    mixture: Mixture
    bound: float = 0.0
    parts: tuple[Part, ...] = ()
    exchange: Exchange = field(default_factory=Exchange)

    @property
    def model(self) -> str:
        """The pool's model."""
        return self.pool.config.model

    @property
    def stand(self) -> Standing:
        """How the units of its first kind stand."""
        return self.looks[0].stand

    @property
    def lost(self) -> tuple[str, ...]:
        """The units that are to be ended because they failed or answer no more."""
        return tuple(name for look in self.looks for name in look.lost)

    @property
    def acts(self) -> bool:
        """Whether anything is to be done."""
        return any(part.acts for part in self.parts)

    def within(self, grant: int, guard: Guard = Guard.BUDGET) -> "Decided":
        """Cut its plan to the starts that are granted: by its hardware's budget, or by a pause."""
        plan = self.plan
        if plan.start <= grant:
            return self
        cut = replace(plan, start=grant, target=plan.target - (plan.start - grant), guard=guard)
        return replace(self, plan=cut)


class Decider:
    """Decides for any pool; what it learns stays in the pool."""

    def __init__(
        self,
        classes: Mapping[str, Class],
        *,
        registry: Registry,
        actuator: Actuator,
        clock: Clock,
        profiles: Profiles = BUILT_IN,
    ) -> None:
        self._classes = classes
        self._profiles = profiles
        self._registry = registry
        self._actuator = actuator
        self._clock = clock

    async def decide(
        self,
        pool: WatchedPool,
        arrived: Arrived,
        blind: bool,
        backlog: PoolBacklog | None = None,
    ) -> Decided:
        """Look at its units, learn from what they report, and plan for its calls and for the jobs
        that wait for it.

        Raises ActuationFailed or OSError where its units cannot be listed.
        """
        now = self._clock.now()
        config = pool.config
        seen = [await self._list(kind, alone=len(pool.kinds) == 1) for kind in pool.kinds]
        looks = self._look(pool, seen, now, blind)
        first = looks[0]
        mixture = Mixture.of([look.place for look in looks], self._classes, config.model)
        work = row_of(arrived, first.shares, replicas_per_unit=config.replicas_per_unit)
        due = backlog_of(backlog, config.replicas_per_unit)
        if arrived.offered or arrived.waiting_work_s or due:
            pool.last_call_at = now
        view = view_of(
            first.stand,
            arrived,
            sum(work.values()),
            first.shares,
            now=now,
            blind=blind,
            cold_start_s=pool.cold_start_s,
            last_call_at=pool.last_call_at,
            deferrable=jobs_need(due, cold_start_s=pool.cold_start_s, now=now),
            replicas_per_unit=config.replicas_per_unit,
        )
        if len(looks) > 1:
            view = _of_all(view, looks, mixture, pool.mixed)
            tight = {each: of for each, of in arrived.work_s.items() if each[0] in mixture.bound}
            bound = row_of(
                replace(arrived, work_s=tight),
                first.shares,
                replicas_per_unit=config.replicas_per_unit,
            )
            pool.lately = pool.lately.after(
                sum(bound.values()), sum(work.values()), arrived.elapsed_s
            )
        row = pool.slots.row(work)
        plan = pool.scaler.step(view, row)
        forecast = pool.scaler.last_forecast
        assert forecast is not None  # noqa: S101 - step has just made it
        return Decided(
            pool,
            plan,
            view,
            forecast,
            tuple(looks),
            row,
            mixture,
            pool.lately.share if mixture.bound else 0.0,
        )

    async def _list(self, kind: WatchedKind, *, alone: bool) -> bool:
        """List a kind's units; False where they cannot be listed and others are there to go on
        with.
        """
        try:
            kind.units = tuple(await self._actuator.units(kind.config.key))
        except (ActuationFailed, OSError) as error:
            if alone:
                raise
            _log.error("%s: its units cannot be listed: %s", kind.config.key, error)
            return False
        return True

    def _look(self, pool: WatchedPool, seen: Sequence[bool], now: float, blind: bool) -> list[Look]:
        """Look at each kind, and learn from what its replicas report."""
        of = self._registry.fleet.pool(pool.config.model)
        routable = {s.replica.id for s in of.routable}
        ours = {id_ for kind in pool.kinds for unit in kind.units for id_ in unit.replicas}
        owners = [owner(s.replica, pool.kinds) for s in of.routable]
        looks = []
        for i, kind in enumerate(pool.kinds):
            units, took = kind.lives.watch(kind.units, routable, now)
            for start_s in took:
                kind.learn_start(start_s)
            mine = [s for s, owns in zip(of.routable, owners, strict=True) if owns == i]
            known = self._profiles.profile(pool.config.model, kind.config.hardware)
            kind.learn_law(mine, known.law, now)
            stand = replace(
                standing(units, of, now=now, cold_start_s=kind.cold_start_s),
                foreign=sum(s.replica.id not in ours for s in mine),
            )
            lost = kind.lives.lost(stand.stuck, now, blind=blind) if seen[i] else ()
            oldest = now - pool.config.policy.stuck_factor * kind.cold_start_s
            late = [u for u in stand.starting if u.asked_at <= oldest]
            looks.append(Look(kind, stand, self.shares(kind, known), lost, tuple(late), seen[i]))
        return looks

    def shares(self, kind: WatchedKind, known: Profile) -> Mapping[str, float]:
        """Give the work per second of a replica, in the seconds that gateways count work in."""
        slow = kind.slowness.factor * slower(known)
        return {
            name: class_share(known.law, promise, known.model) / slow
            for name, promise in self._classes.items()
        }


def _of_all(view: PoolView, looks: Sequence[Look], mixture: Mixture, mixed: Mixed) -> PoolView:
    """Give what is seen of all kinds, in units of the first."""
    stocks = mixed.trading.without_pending([look.stock(inf) for look in looks])
    ready, starting = counted(stocks, mixture)
    return replace(
        view,
        ready=ready,
        starting=starting,
        draining=sum(len(look.stand.draining) for look in looks),
        stuck=sum(len(look.stand.stuck) for look in looks),
    )
