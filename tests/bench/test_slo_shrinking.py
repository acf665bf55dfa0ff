"""While a replica of a pool drains, the others are filled one after the other."""

from backends.fleet import Fleet, Health, HealthState, Pool, Standing
from backends.hardware import profile
from bench.slo_virtual import World
from bench.slo_world import MODEL, Workload

LAW = profile(MODEL, "mi355x").law.scaled(0.05)


class Draining(World):
    """A world whose last replica drains from the tenth second on."""

    def _publish(self) -> None:
        super()._publish()
        if self.time.t < 10.0:
            return
        pool = self.registry.fleet.pool(MODEL)
        *others, last = pool.standings
        leaving = Standing(last.replica, Health(HealthState.DRAINING), last.load)
        self.registry.fleet = Fleet({MODEL: Pool(MODEL, (*others, leaving))}, self.time.now())


def spread(world: World) -> int:
    """How many more calls the fullest open replica has than the emptiest."""
    counts = [world.ledger.running(r.id) for r in world.replicas[:-1]]
    return max(counts) - min(counts)


def test_a_pool_of_which_a_replica_drains_fills_the_most_loaded_of_the_others() -> None:
    world = Draining([LAW] * 4)
    world.arrivals(8.0, Workload(), 40.0)
    world.until(9.0)
    assert world.steering.lookout.shrinking == frozenset()
    balanced = spread(world)
    world.until(30.0)
    assert world.steering.lookout.shrinking == {MODEL}
    assert world.ledger.running("r03") == 0
    assert spread(world) >= balanced + 4
    world.until(100.0)
    tally = world.tallies["interactive"]
    assert tally.good >= 0.97 * tally.sent
