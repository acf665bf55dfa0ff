"""Who looks, decides and acts, tick after tick? The leader; the others stand by and keep learning.

observe -> forecast -> plan -> allocate -> approve -> actuate -> journal. One pool's failure is
journalled and does not stop the others.
"""

import json
import logging
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError

from autoscale.actuate.unit import ActuationFailed, Actuator, Unit, UnitState
from autoscale.allocate import Claim, granted
from autoscale.capacity import Slowness, class_share, learned
from autoscale.config import FleetConfig, PoolConfig
from autoscale.forecast import Forecast, load_weights
from autoscale.journal import Journal, entry, expected_misses
from autoscale.leader import Held, Leadership
from autoscale.lives import Lives
from autoscale.observe import (
    Arrived,
    SignalReader,
    Standing,
    TenantSlots,
    row_of,
    standing,
    view_of,
)
from autoscale.plan import Guard, Plan, PoolView
from autoscale.scaler import PoolScaler
from backends import autoscaling, signals
from backends.clock import Clock
from backends.fleet import Fleet, Load
from backends.hardware import profile
from backends.registry import Registry
from backends.slo import Class

_log = logging.getLogger(__name__)
_OUR_NAME = "autoscaler"


@dataclass(slots=True)
class _Pool:
    """What the loop keeps of a pool."""

    config: PoolConfig
    scaler: PoolScaler
    slots: TenantSlots
    cold_start_s: float
    slowness: Slowness = field(default_factory=Slowness)
    loads: dict[str, Load] = field(default_factory=dict)
    served_at: dict[str, float] = field(default_factory=dict)
    lives: Lives = field(default_factory=Lives)
    last_call_at: float = 0.0


@dataclass(frozen=True, slots=True)
class Decided:
    """A pool's decision with what it stands on; `lost` are the units to be ended beside it."""

    pool: _Pool
    plan: Plan
    view: PoolView
    forecast: Forecast
    stand: Standing
    lost: tuple[str, ...] = ()


class Autoscaler:
    """One instance. `tick` is one look and decision; `run` repeats it for ever."""

    def __init__(
        self,
        config: FleetConfig,
        classes: Mapping[str, Class],
        *,
        store: Redis,
        registry: Registry,
        actuator: Actuator,
        clock: Clock,
        name: str | None = None,
    ) -> None:
        self.config = config
        self._classes = classes
        self._store = store
        self._registry = registry
        self._actuator = actuator
        self._clock = clock
        self._leadership = Leadership(
            store, name or f"{_OUR_NAME}-{uuid.uuid4().hex[:12]}", lease_s=3 * config.tick_s + 5.0
        )
        self._journal = Journal(store)
        self._reader = SignalReader()
        weights = load_weights()
        self._pools = {
            each.model: _Pool(
                each,
                PoolScaler(
                    TenantSlots().length,
                    each.policy,
                    weights=weights,
                    cold_start_s=each.cold_start_s,
                    tick_s=config.tick_s,
                ),
                TenantSlots(),
                each.cold_start_s,
                last_call_at=clock.now(),
            )
            for each in config.pools
        }
        self.leads = False
        self.last: dict[str, Decided] = {}

    async def run(self) -> None:
        """Tick for ever; copes with a store that is away (nothing is done meanwhile)."""
        try:
            while True:
                began = self._clock.monotonic()
                try:
                    await self.tick()
                except RedisError as error:
                    _log.warning("the store does not answer; nothing is changed: %s", error)
                spent = self._clock.monotonic() - began
                await self._clock.sleep(max(self.config.tick_s - spent, 0.05))
        finally:
            try:
                await self._leadership.leave()
            except RedisError as error:
                _log.warning("the lease ends by itself: %s", error)

    async def tick(self) -> None:
        """Look once, decide, and act if we lead. Raises RedisError."""
        held = await self._leadership.hold()
        self.leads = held is not None
        control = await autoscaling.read_control(self._store)
        arrived, stale = self._reader.take(await signals.read(self._store), self._clock.now())
        blind = stale or not self._registry.store_ok
        decided = []
        for name, pool in self._pools.items():
            try:
                decided.append(await self._decide(pool, arrived.get(name, Arrived()), blind))
            except (ActuationFailed, OSError) as error:
                _log.error("%s: its units cannot be listed; nothing is done: %s", name, error)
        self.last = {each.pool.config.model: each for each in decided}
        if held is None:
            return
        grants = granted([self._claim(each) for each in decided], self.config.budget)
        for each in decided:
            if control.paused_at is None:
                await self._resume_drains(each)
            plan = _within(each.plan, grants[each.pool.config.model])
            if self._clock.now() < each.pool.lives.retry_at:
                plan = _within(plan, 0, Guard.STUCK)
            bounded = replace(each, plan=plan)
            done = "steady"
            if plan.acts or each.lost:
                done = await self._act(bounded, held, control.paused_at is not None)
            await self._write(bounded, held, done)

    async def _decide(self, pool: _Pool, arrived: Arrived, blind: bool) -> Decided:
        now = self._clock.now()
        config = pool.config
        fleet = self._registry.fleet
        units = await self._actuator.units(config.model)
        routable = {s.replica.id for s in fleet.pool(config.model).routable}
        units, took = pool.lives.watch(units, routable, now)
        for start_s in took:
            if 0.0 < start_s < 10 * pool.cold_start_s:
                pool.cold_start_s += 0.3 * (start_s - pool.cold_start_s)
        self._learn_law(pool, fleet, now)
        shares = self._shares(pool)
        stand = standing(
            units,
            fleet.pool(config.model),
            now=now,
            cold_start_s=pool.cold_start_s,
        )
        work = row_of(arrived, shares, replicas_per_unit=config.replicas_per_unit)
        if arrived.offered or arrived.waiting_work_s:
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
        )
        plan = pool.scaler.step(view, pool.slots.row(work))
        forecast = pool.scaler.last_forecast
        assert forecast is not None  # noqa: S101 - step has just made it
        return Decided(
            pool, plan, view, forecast, stand, pool.lives.lost(stand.stuck, now, blind=blind)
        )

    async def _act(self, decided: Decided, held: Held, paused: bool) -> str:
        """Do it, or say why not."""
        name, plan = decided.pool.config.model, decided.plan
        if paused:
            return Guard.PAUSED.value
        if self.config.approval and plan.acts and not await self._approved(name, plan, held):
            return "waits for approval"
        current = await self._leadership.hold()
        if current is None or current.fence != held.fence:
            return "lost the lease"
        stand = decided.stand
        try:
            ended = [*decided.lost, *_given_up(stand, plan)]
            if ended:
                failed = [u for u in stand.stuck if u.state is UnitState.FAILED]
                decided.pool.lives.failed(failed, self._clock.now(), self.config.tick_s)
                await self._actuator.discard(name, ended)
            if plan.drain:
                chosen = self._least_busy(stand.serving, plan.drain)
                await self._store.sadd(autoscaling.drains_of(name), *chosen)
                await self._actuator.drain(name, chosen)
            if plan.start:
                await self._actuator.start(name, plan.start)
        except (ActuationFailed, OSError) as error:
            _log.error("%s: %s", name, error)
            return f"failed: {error}"
        return "done"

    async def _resume_drains(self, decided: Decided) -> None:
        """Go on with drains that a leader before us began and did not end."""
        name, stand = decided.pool.config.model, decided.stand
        key = autoscaling.drains_of(name)
        found: Any = await self._store.smembers(key)
        begun = {each.decode() for each in found}
        there = {u.name for u in (*stand.starting, *stand.draining, *stand.stuck)}
        left = [
            unit.name
            for unit in stand.draining
            if unit.name in begun and unit.state is not UnitState.DRAINING
        ]
        if over := begun - there:  # gone, or an operator has let it serve again
            await self._store.srem(key, *over)
        try:
            if left:
                await self._actuator.drain(name, left)
        except (ActuationFailed, OSError) as error:
            _log.error("%s: %s", name, error)

    async def _approved(self, pool: str, plan: Plan, held: Held) -> bool:
        """Say whether an operator has approved this; else propose it."""
        raw = await self._store.hget(autoscaling.PROPOSALS, pool)
        proposal = json.loads(raw) if raw else None
        same = proposal is not None and proposal["target"] == plan.target
        if same and proposal is not None:
            approved: Any = await self._store.hget(autoscaling.APPROVED, pool)
            if approved is not None and approved.decode() == proposal["id"]:
                await self._store.hdel(autoscaling.APPROVED, pool)
                await self._store.hdel(autoscaling.PROPOSALS, pool)
                return True
            return False
        new = {
            "id": uuid.uuid4().hex,
            "pool": pool,
            "at": plan.at,
            "target": plan.target,
            "start": plan.start,
            "cancel": plan.cancel,
            "drain": plan.drain,
            "guard": plan.guard.value,
            "fence": held.fence,
        }
        await self._store.hset(autoscaling.PROPOSALS, pool, json.dumps(new))
        return False

    async def _write(self, decided: Decided, held: Held, done: str) -> None:
        record = entry(
            decided.pool.config.model,
            decided.plan,
            decided.view,
            decided.forecast,
            decided.pool.config.policy,
            fence=held.fence,
            done=done,
            ended=len(decided.lost),
        )
        await self._journal.state(decided.pool.config.model, record)
        if decided.plan.acts or decided.lost:
            await self._journal.write(record)

    def _claim(self, decided: Decided) -> Claim:
        stand, forecast, plan = decided.stand, decided.forecast, decided.plan
        present = sum(
            len(group) for group in (stand.serving, stand.starting, stand.draining, stand.stuck)
        )
        have = len(stand.serving) + len(stand.starting)

        def worth(more: int) -> float:
            gain = expected_misses(forecast, have + more - 1) - expected_misses(
                forecast, have + more
            )
            return plan.price * gain

        config = decided.pool.config
        return Claim(config.model, config.hardware, present + stand.foreign, plan.start, worth)

    def _shares(self, pool: _Pool) -> Mapping[str, float]:
        law = profile(pool.config.model, pool.config.hardware).law
        slow = pool.slowness.factor
        return {
            name: class_share(law, promise, pool.config.model) / slow
            for name, promise in self._classes.items()
        }

    def _learn_law(self, pool: _Pool, fleet: Fleet, now: float) -> None:
        law = profile(pool.config.model, pool.config.hardware).law
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

    def _least_busy(self, units: tuple[Unit, ...], count: int) -> list[str]:
        """Choose the units with the least to do; among equals the youngest."""

        def busy(unit: Unit) -> int:
            found = [self._registry.fleet.standing(id_) for id_ in unit.replicas]
            return sum(s.load.running + s.load.waiting for s in found if s and s.load)

        ordered = sorted(units, key=lambda unit: (busy(unit), -unit.asked_at))
        return [unit.name for unit in ordered[:count]]


def _given_up(stand: Standing, plan: Plan) -> list[str]:
    """Say which pending starts end: the oldest are given up, the youngest are not needed."""
    by_age = sorted(stand.starting, key=lambda unit: unit.asked_at)
    kept = len(by_age) - plan.cancel
    return [unit.name for unit in (*by_age[: plan.give_up], *by_age[max(kept, plan.give_up) :])]


def _within(plan: Plan, grant: int, guard: Guard = Guard.BUDGET) -> Plan:
    """Cut a plan to the starts that are granted: by the budget of its hardware, or by a pause."""
    if plan.start <= grant:
        return plan
    return replace(plan, start=grant, target=plan.target - (plan.start - grant), guard=guard)
