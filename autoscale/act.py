"""How is a decision carried out? Once it is approved, while we lead, and again if a leader left it.

What is begun here is remembered in the store, so that the next leader goes on with it.
"""

import json
import logging
import uuid
from typing import Any

from redis.asyncio import Redis

from autoscale.actuate.unit import ActuationFailed, Actuator, Unit, UnitState
from autoscale.decide import Decided
from autoscale.leader import Held, Leadership
from autoscale.observe import Standing
from autoscale.plan import Guard, Plan
from autoscale.swaps import Swaps
from backends import autoscaling
from backends.clock import Clock
from backends.registry import Registry

_log = logging.getLogger(__name__)


class Actor:
    """Starts, drains and ends units; with `approval`, only what an operator has said yes to."""

    def __init__(
        self,
        store: Redis,
        *,
        registry: Registry,
        actuator: Actuator,
        leadership: Leadership,
        clock: Clock,
        tick_s: float,
        approval: bool,
    ) -> None:
        self._store = store
        self._swaps = Swaps(store)
        self._registry = registry
        self._actuator = actuator
        self._leadership = leadership
        self._clock = clock
        self._tick_s = tick_s
        self._approval = approval

    async def act(self, decided: Decided, held: Held, paused: bool) -> str:
        """Do it, or say why not. Raises RedisError."""
        name, plan = decided.model, decided.plan
        if paused:
            return Guard.PAUSED.value
        if self._approval and plan.acts and not await self._approved(name, plan, held):
            return "waits for approval"
        current = await self._leadership.hold()
        if current is None or current.fence != held.fence:
            return "lost the lease"
        stand = decided.stand
        try:
            ended = [*decided.lost, *_given_up(stand, plan)]
            if ended:
                failed = [u for u in stand.stuck if u.state is UnitState.FAILED]
                decided.pool.lives.failed(failed, self._clock.now(), self._tick_s)
                await self._actuator.discard(name, ended)
            if plan.drain:
                chosen = self._least_busy(stand.serving, plan.drain)
                await self._swaps.begin(name, chosen, decided.exchange, self._clock.now())
                await self._actuator.drain(name, chosen)
            if plan.start:
                await self._start(decided)
        except (ActuationFailed, OSError) as error:
            _log.error("%s: %s", name, error)
            return f"failed: {error}"
        return "done"

    async def _start(self, decided: Decided) -> None:
        """Start units, those in places that swaps have made free noted before and after."""
        name, plan, exchange = decided.model, decided.plan, decided.exchange
        placed = exchange.free[: plan.start]
        if placed:
            units = await self._actuator.units(name)
            await self._swaps.asked(exchange.pair, placed, [unit.name for unit in units])
        await self._actuator.start(name, plan.start)
        await self._swaps.end(exchange.pair, placed)

    async def resume_drains(self, decided: Decided) -> None:
        """Go on with drains that a leader before us began and did not end. Raises RedisError."""
        name, stand = decided.model, decided.stand
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
