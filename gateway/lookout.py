"""What is new of the pools, and does the ledger know it?"""

from backends.fleet import HealthState, Pool
from gateway.bearings import Bearings
from gateway.pool_state import PoolState
from gateway.queue.ledger import Candidate

LOOK_EVERY_S = 0.5


class Lookout:
    """Looks at the fleet, and tells the ledger which replicas may be used and up to what.

    `shrinking` are the models whose pools are losing replicas.
    """

    def __init__(self, bearings: Bearings) -> None:
        self.shrinking: frozenset[str] = frozenset()
        self._registry = bearings.registry
        self._ledger = bearings.ledger
        self._clock = bearings.clock
        self._classes = bearings.classes
        self._estimates = bearings.estimates
        self._pools = bearings.pools
        self._offered: dict[tuple[str, str], tuple[Candidate, ...]] = {}

    async def run(self) -> None:
        """Look at the pools twice a second, for ever."""
        while True:
            self.look()
            await self._clock.sleep(LOOK_EVERY_S)

    def look(self) -> None:
        """Learn what is new of every pool, and tell the ledger what may be used.

        A pool of which a replica drains is shrinking: its other calls fill the most loaded
        replicas, so that those which drain next have little left to finish.
        """
        now = self._clock.now()
        fleet = self._registry.fleet
        self.shrinking = frozenset(m for m, pool in fleet.pools.items() if _shrinks(pool))
        for model, pool in fleet.pools.items():
            state = self._pools.look(pool, self._estimates.mix(model), now=now)
            self._offer(model, state)
        ids = {s.replica.id for pool in fleet.pools.values() for s in pool.standings}
        self._pools.keep_only(ids)

    def look_again(self, model: str) -> None:
        """Learn what is new of one pool, where it has replicas that nothing was learnt of."""
        pool = self._registry.fleet.pool(model)
        if pool.routable:
            state = self._pools.look(pool, self._estimates.mix(model), now=self._clock.now())
            self._offer(model, state)

    def _offer(self, model: str, state: PoolState) -> None:
        """Tell the ledger the bounds that have changed."""
        loosest = max(self._classes.values(), key=lambda c: c.rank)
        for name in (loosest.name, *self._classes):
            bounds = tuple(p.bounds[name] for p in state.roster.prospects)
            is_all = name == loosest.name
            key = (model, "" if is_all else name)
            if self._offered.get(key) == bounds:
                continue
            self._offered[key] = bounds
            rank = None if is_all else self._classes[name].rank
            self._ledger.offer(model, bounds, rank=rank)


def _shrinks(pool: Pool) -> bool:
    return any(s.health.state is HealthState.DRAINING for s in pool.standings)
