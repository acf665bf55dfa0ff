"""What shall become of a pool's units, by what is seen of them and of its calls?

observe -> forecast -> plan for one pool; `loop` does it for each and shares the budget out.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from autoscale.actuate.unit import Actuator
from autoscale.allocate import Claim
from autoscale.capacity import Slowness, class_share, learned, slower
from autoscale.config import PoolConfig
from autoscale.forecast import Forecast, Weights
from autoscale.journal import expected_misses
from autoscale.lives import Lives
from autoscale.observe import Arrived, Standing, TenantSlots, row_of, standing, view_of
from autoscale.plan import Guard, Plan, PoolView
from autoscale.scaler import PoolScaler
from autoscale.sharing import backlog_of, jobs_need
from autoscale.swaps import Exchange
from autoscale.traces import Floats
from backends.backlogs import PoolBacklog
from backends.capacity import StepLaw
from backends.clock import Clock
from backends.fleet import Fleet, Load
from backends.hardware import Profile
from backends.measured import BUILT_IN, Profiles
from backends.registry import Registry
from backends.slo import Class


@dataclass(slots=True)
class WatchedPool:
    """What is kept of a pool from tick to tick."""

    config: PoolConfig
    scaler: PoolScaler
    slots: TenantSlots
    cold_start_s: float
    slowness: Slowness = field(default_factory=Slowness)
    loads: dict[str, Load] = field(default_factory=dict)
    served_at: dict[str, float] = field(default_factory=dict)
    lives: Lives = field(default_factory=Lives)
    last_call_at: float = 0.0
    least_start_s: float = 0.0  # what took less was a swap, and says nothing of a cold start

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
        return cls(config, scaler, slots, config.cold_start_s, last_call_at=now)


@dataclass(frozen=True, slots=True)
class Decided:
    """A pool's decision with what it stands on; `lost` are the units to be ended beside it, and
    `exchange` says what of it belongs to swaps.
    """

    pool: WatchedPool
    plan: Plan
    view: PoolView
    forecast: Forecast
    stand: Standing
    row: Floats
    lost: tuple[str, ...] = ()
    exchange: Exchange = field(default_factory=Exchange)

    @property
    def model(self) -> str:
        """The pool's model."""
        return self.pool.config.model

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
        fleet = self._registry.fleet
        units = await self._actuator.units(config.model)
        routable = {s.replica.id for s in fleet.pool(config.model).routable}
        units, took = pool.lives.watch(units, routable, now)
        for start_s in took:
            if pool.least_start_s < start_s < 10 * pool.cold_start_s:
                pool.cold_start_s += 0.3 * (start_s - pool.cold_start_s)
        known = self._profiles.profile(config.model, config.hardware)
        _learn_law(pool, fleet, known.law, now)
        shares = self.shares(pool, known)
        stand = standing(
            units,
            fleet.pool(config.model),
            now=now,
            cold_start_s=pool.cold_start_s,
        )
        work = row_of(arrived, shares, replicas_per_unit=config.replicas_per_unit)
        due = backlog_of(backlog, config.replicas_per_unit)
        if arrived.offered or arrived.waiting_work_s or due:
            pool.last_call_at = now
        view = view_of(
            stand,
            arrived,
            sum(work.values()),
            shares,
            now=now,
            blind=blind,
            cold_start_s=pool.cold_start_s,
            last_call_at=pool.last_call_at,
            deferrable=jobs_need(due, cold_start_s=pool.cold_start_s, now=now),
        )
        row = pool.slots.row(work)
        plan = pool.scaler.step(view, row)
        forecast = pool.scaler.last_forecast
        assert forecast is not None  # noqa: S101 - step has just made it
        lost = pool.lives.lost(stand.stuck, now, blind=blind)
        return Decided(pool, plan, view, forecast, stand, row, lost)

    def shares(self, pool: WatchedPool, known: Profile) -> Mapping[str, float]:
        """Give the work per second of a replica, in the seconds that gateways count work in."""
        slow = pool.slowness.factor * slower(known)
        return {
            name: class_share(known.law, promise, pool.config.model) / slow
            for name, promise in self._classes.items()
        }


def claim_of(decided: Decided) -> Claim:
    """Say what it asks of the budget of its hardware, and what each start is worth."""
    stand, forecast, plan = decided.stand, decided.forecast, decided.plan
    present = sum(
        len(group) for group in (stand.serving, stand.starting, stand.draining, stand.stuck)
    )
    have = len(stand.serving) + len(stand.starting)

    def worth(more: int) -> float:
        gain = expected_misses(forecast, have + more - 1) - expected_misses(forecast, have + more)
        return plan.price * gain

    config = decided.pool.config
    return Claim(config.model, config.hardware, present + stand.foreign, plan.start, worth)


def _learn_law(pool: WatchedPool, fleet: Fleet, law: StepLaw, now: float) -> None:
    for each in fleet.pool(pool.config.model).routable:
        id_, load = each.replica.id, each.load
        pool.served_at.setdefault(id_, now)
        before = pool.loads.get(id_)
        if load is None or (before is not None and before.at >= load.at):
            continue
        if before is not None:
            serving_s = now - pool.served_at[id_]
            pool.slowness = learned(pool.slowness, law, before, load, serving_s=serving_s)
        pool.loads[id_] = load
