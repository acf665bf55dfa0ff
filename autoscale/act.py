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
from autoscale.plan import Guard
from autoscale.swaps import Swaps
from autoscale.watched import Look, Part
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
        plan = decided.plan
        if paused:
            return Guard.PAUSED.value
        if self._approval and plan.acts and not await self._approved(decided, held):
            return "waits for approval"
        current = await self._leadership.hold()
        if current is None or current.fence != held.fence:
            return "lost the lease"
        failed = [why for part in decided.parts if (why := await self._do(decided, part))]
        return f"failed: {'; '.join(failed)}" if failed else "done"

    async def _do(self, decided: Decided, part: Part) -> str:
        """Do what is to be done with one kind of units; give what went wrong, if anything did."""
        name, kind, stand = part.key, part.look.kind, part.look.stand
        several = len(decided.parts) > 1
        now = self._clock.now()
        try:
            ended = [*part.look.lost, *_given_up(part)]
            if ended:
                failed = [u for u in stand.stuck if u.state is UnitState.FAILED]
                kind.lives.failed(failed, now, self._tick_s)
                if several and (part.give_up or part.look.has_failed):
                    kind.lives.avoid(now, kind.cold_start_s)
                await self._actuator.discard(name, ended)
            if part.drain:
                chosen = self._least_busy(stand.serving, part.drain)
                await self._swaps.begin(name, chosen, decided.exchange, now)
                await self._actuator.drain(name, chosen)
            if part.start:
                await self._start(decided, part)
        except (ActuationFailed, OSError) as error:
            _log.error("%s: %s", name, error)
            if several and part.start:
                kind.lives.avoid(now, kind.cold_start_s)
            return str(error) or repr(error)
        return ""

    async def _start(self, decided: Decided, part: Part) -> None:
        """Start units, those in places that swaps have made free noted before and after."""
        name, exchange = part.key, decided.exchange
        placed = exchange.free[: part.start]
        if placed:
            units = await self._actuator.units(name)
            await self._swaps.asked(exchange.pair, placed, [unit.name for unit in units])
        await self._actuator.start(name, part.start)
        await self._swaps.end(exchange.pair, placed)

    async def resume_drains(self, decided: Decided) -> None:
        """Go on with drains that a leader before us began and did not end. Raises RedisError."""
        for look in decided.looks:
            if look.is_seen:
                await self._resume(look)

    async def _resume(self, look: Look) -> None:
        name, stand = look.kind.config.key, look.stand
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

    async def _approved(self, decided: Decided, held: Held) -> bool:
        """Say whether an operator has approved this; else propose it."""
        pool, plan = decided.model, decided.plan
        kinds = {
            part.look.kind.config.name: [part.start, part.cancel, part.drain, part.give_up]
            for part in decided.parts[1:] and decided.parts
        }
        raw = await self._store.hget(autoscaling.PROPOSALS, pool)
        proposal = json.loads(raw) if raw else None
        same = (
            proposal is not None
            and proposal["target"] == plan.target
            and proposal.get("kinds", {}) == kinds
        )
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
            **({"kinds": kinds} if kinds else {}),
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


def _given_up(part: Part) -> list[str]:
    """Say which pending starts end: the oldest are given up, the youngest are not needed."""
    by_age = sorted(part.look.stand.starting, key=lambda unit: unit.asked_at)
    kept = len(by_age) - part.cancel
    return [unit.name for unit in (*by_age[: part.give_up], *by_age[max(kept, part.give_up) :])]
