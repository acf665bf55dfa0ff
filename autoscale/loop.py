"""Who looks, decides and acts, tick after tick? The leader; the others stand by and keep learning.

observe -> forecast -> plan -> allocate -> approve -> actuate -> journal. One pool's failure is
journalled and does not stop the others.
"""

import logging
import uuid
from collections.abc import Mapping

from redis.asyncio import Redis
from redis.exceptions import RedisError

from autoscale.act import Actor
from autoscale.actuate.unit import ActuationFailed, Actuator
from autoscale.config import FleetConfig
from autoscale.decide import Decided, Decider
from autoscale.forecast import load_weights
from autoscale.journal import Journal, entry
from autoscale.leader import Held, Leadership
from autoscale.observe import Arrived, SignalReader
from autoscale.shared_pools import SharedPools
from autoscale.spread import kinds_of, spread
from autoscale.swaps import Swaps
from autoscale.watched import WatchedPool
from backends import autoscaling, backlogs, signals
from backends.backlogs import PoolBacklog
from backends.clock import Clock
from backends.registry import Registry
from backends.slo import Class

_log = logging.getLogger(__name__)
_OUR_NAME = "autoscaler"


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
        self._store = store
        self._registry = registry
        self._clock = clock
        self._leadership = Leadership(
            store, name or f"{_OUR_NAME}-{uuid.uuid4().hex[:12]}", lease_s=3 * config.tick_s + 5.0
        )
        self._decider = Decider(
            classes,
            registry=registry,
            actuator=actuator,
            clock=clock,
            profiles=config.profiles,
        )
        self._actor = Actor(
            store,
            registry=registry,
            actuator=actuator,
            leadership=self._leadership,
            clock=clock,
            tick_s=config.tick_s,
            approval=config.approval,
        )
        self._journal = Journal(store)
        self._swaps = Swaps(store)
        self._reader = SignalReader()
        weights = load_weights()
        self._pools = [
            WatchedPool.of(each, weights, tick_s=config.tick_s, now=clock.now())
            for each in config.pools
        ]
        by_model = {each.config.model: each for each in self._pools}
        self._shared = [
            SharedPools.of(
                each,
                by_model,
                weights,
                tick_s=config.tick_s,
                drain_within_s=config.drain_within_s,
            )
            for each in config.shared
        ]
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
        waiting = await backlogs.read(self._store, [each.config.model for each in self._pools])
        decided = [
            each
            for pool in self._pools
            if (each := await self._decide(pool, arrived, waiting, blind)) is not None
        ]
        for shared in self._shared:
            changes = await self._swaps.read(shared.calls)
            decided, over = shared.replanned(decided, waiting, changes)
            if held is not None:
                await self._swaps.end(shared.calls, over)
        decided = spread(decided, self.config.budget, self._clock.now())
        self.last = {each.model: each for each in decided}
        if held is None:
            return
        for each in decided:
            await self._carry_out(each, held, control.paused_at is not None)

    async def _decide(
        self,
        pool: WatchedPool,
        arrived: Mapping[str, Arrived],
        waiting: Mapping[str, PoolBacklog],
        blind: bool,
    ) -> Decided | None:
        name = pool.config.model
        try:
            return await self._decider.decide(
                pool, arrived.get(name, Arrived()), blind, waiting.get(name)
            )
        except (ActuationFailed, OSError) as error:
            _log.error("%s: its units cannot be listed; nothing is done: %s", name, error)
            return None

    async def _carry_out(self, decided: Decided, held: Held, paused: bool) -> None:
        if not paused:
            await self._actor.resume_drains(decided)
        done = "steady"
        if decided.acts:
            done = await self._actor.act(decided, held, paused)
        await self._write(decided, held, done)

    async def _write(self, decided: Decided, held: Held, done: str) -> None:
        record = entry(
            decided.model,
            decided.plan,
            decided.view,
            decided.forecast,
            decided.pool.config.policy,
            fence=held.fence,
            done=done,
            ended=len(decided.lost),
            kinds=kinds_of(decided),
        )
        await self._journal.state(decided.model, record)
        if decided.acts:
            await self._journal.write(record)
