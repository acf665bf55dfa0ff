"""What a gateway makes of its pools: for which calls each replica is kept."""

from backends.fleet import Health, HealthState, Pool, Replica, Standing
from backends.slo import MLPERF_CLASSES
from gateway.levels import Demand
from gateway.pools import Pools
from gateway.queue.ledger import Cost

MODEL = "llama2-70b"
CLASSES = {each.name: each for each in MLPERF_CLASSES}


def test_no_replica_at_a_distance_is_kept_for_calls_that_stay_at_home() -> None:
    """Interactive calls need more than home has, and the far replicas are the idler ones."""
    replicas = [
        Replica(f"{site}{n}", MODEL, f"http://{site}{n}", site=site)
        for site, count in (("far", 6), ("home", 2))
        for n in range(count)
    ]
    pool = Pool(MODEL, tuple(Standing(each, Health(HealthState.READY)) for each in replicas))
    busy = {each.id: Cost(3 if each.site == "home" else 0) for each in replicas}
    pools = Pools(CLASSES, busy.__getitem__, {"far": 0.15})
    demand = pools.state(MODEL).demand
    demand.update(interactive=Demand(4.0, 1.0), server=Demand(1.0, 1.0))
    kept = pools.look(pool, None, now=1.0).kept_for
    assert {id_ for id_, level in kept.items() if level.name == "interactive"} == {"home0", "home1"}
    assert {level.name for id_, level in kept.items() if id_.startswith("far")} == {"server"}
