"""Do probes find out who serves, and does one bad replica harm no other?"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

from redis.asyncio import Redis

from backends.fleet import HealthState
from backends.health import CallOutcome
from backends.probe import Prober
from backends.probe_watch import Pace
from backends.registry import Registry
from tests.backends.replicas import Behaviour, replica, server
from tests.waiting import eventually

FAST = Pace(
    ready_every_s=0.1,
    ready_timeout_s=0.3,
    loads_every_s=0.1,
    loads_timeout_s=0.3,
    liveness_every_s=0.2,
    liveness_timeout_s=0.5,
)


@contextlib.asynccontextmanager
async def probing(registry: Registry, pace: Pace = FAST) -> AsyncIterator[Prober]:
    prober = Prober(registry, pace=pace)
    task = asyncio.create_task(prober.run())
    try:
        yield prober
    finally:
        task.cancel()
        await asyncio.wait([task])


def state(registry: Registry, id_: str) -> HealthState | None:
    standing = registry.fleet.standing(id_)
    return None if standing is None else standing.health.state


async def until(registry: Registry, id_: str, wanted: HealthState | None) -> None:
    await eventually(lambda: state(registry, id_) is wanted)


async def test_readiness_and_load_are_found_and_followed(redis: Redis) -> None:
    behaviour = Behaviour(running=3, key="sk-x")
    async with server(behaviour) as url:
        one = replica(url, api_key="sk-x")
        registry = Registry(redis, configured=[one])
        async with probing(registry):
            await until(registry, one.id, HealthState.READY)

            def load_seen() -> bool:
                standing = registry.fleet.standing(one.id)
                return standing is not None and standing.load is not None

            await eventually(load_seen)
            standing = registry.fleet.standing(one.id)
            assert standing is not None
            assert standing.load is not None
            assert standing.load.running == 3
            assert abs(standing.load.seen_at - time.time()) < 60
            behaviour.ready = 503
            await until(registry, one.id, HealthState.NOT_READY)
            behaviour.ready = 200
            await until(registry, one.id, HealthState.READY)


async def test_one_that_never_answers_is_ejected_and_delays_no_other(redis: Redis) -> None:
    silent, sound = Behaviour(ready=None, health=None), Behaviour()
    async with server(silent) as bad, server(sound) as good:
        one, two = replica(bad), replica(good)
        registry = Registry(redis, configured=[one, two])
        async with probing(registry):
            await until(registry, two.id, HealthState.READY)
            await until(registry, one.id, HealthState.EJECTED)
            assert state(registry, two.id) is HealthState.READY
            assert sound.seen.count("/ready") > silent.seen.count("/ready")
            silent.ready = silent.health = 200
            await until(registry, one.id, HealthState.READY)


async def test_a_killed_one_is_ejected_and_readmitted_when_it_is_back(
    redis: Redis, free_port: int
) -> None:
    one = replica(f"http://127.0.0.1:{free_port}")
    registry = Registry(redis, configured=[one])
    async with probing(registry):
        await until(registry, one.id, HealthState.EJECTED)
        async with server(Behaviour(), free_port):
            await until(registry, one.id, HealthState.READY)
        await until(registry, one.id, HealthState.EJECTED)


async def test_faults_of_calls_hasten_a_probe(redis: Redis) -> None:
    behaviour = Behaviour()
    slow = Pace(ready_every_s=3600.0, loads_every_s=3600.0, liveness_every_s=3600.0)
    async with server(behaviour) as url:
        one = replica(url)
        registry = Registry(redis, configured=[one])
        async with probing(registry, slow) as prober:
            await until(registry, one.id, HealthState.READY)
            behaviour.ready = 503
            prober.report(one.id, CallOutcome.BROKEN_STREAM)
            await until(registry, one.id, HealthState.NOT_READY)
            prober.report("nobody", CallOutcome.BROKEN_STREAM)


async def test_broken_inference_behind_a_good_readiness_is_ejected_until_health_agrees(
    redis: Redis,
) -> None:
    behaviour = Behaviour(health=503)
    still = Pace(ready_every_s=0.05, liveness_every_s=3600.0)
    async with server(behaviour) as url:
        one = replica(url)
        registry = Registry(redis, configured=[one])
        async with probing(registry, still) as prober:
            await until(registry, one.id, HealthState.READY)
            for _ in range(5):
                prober.report(one.id, CallOutcome.SERVER_ERROR)
            assert state(registry, one.id) is HealthState.EJECTED
            await eventually(lambda: behaviour.seen.count("/health") >= 1)
            assert state(registry, one.id) is HealthState.EJECTED
            behaviour.health = 200
            await until(registry, one.id, HealthState.READY)


async def test_liveness_is_asked_only_where_no_call_proved_it(redis: Redis) -> None:
    idle, busy = Behaviour(), Behaviour()
    async with server(idle) as first, server(busy) as second:
        one, two = replica(first), replica(second)
        registry = Registry(redis, configured=[one, two])
        async with probing(registry) as prober:

            def idle_was_asked_often() -> bool:
                prober.report(two.id, CallOutcome.OK)
                return idle.seen.count("/health") >= 3

            await eventually(idle_was_asked_often)
            assert busy.seen.count("/health") == 0
            idle.health = None
            await until(registry, one.id, HealthState.EJECTED)


async def test_a_plain_server_without_ready_and_loads_serves_too(redis: Redis) -> None:
    behaviour = Behaviour(ready=404, has_loads=False)
    async with server(behaviour) as url:
        one = replica(url)
        registry = Registry(redis, configured=[one])
        async with probing(registry):
            await until(registry, one.id, HealthState.READY)
            standing = registry.fleet.standing(one.id)
            assert standing is not None
            assert standing.load is None
            behaviour.health = 503
            await until(registry, one.id, HealthState.NOT_READY)
            behaviour.health = 200
            await until(registry, one.id, HealthState.READY)
            assert behaviour.seen.count("/v1/loads") <= 20


async def test_replicas_that_come_and_go_are_followed(redis: Redis) -> None:
    first, second = Behaviour(), Behaviour()
    async with server(first) as here, server(second) as there:
        one, two = replica(here), replica(there)
        registry = Registry(redis, configured=[one])
        async with probing(registry) as prober:
            await until(registry, one.id, HealthState.READY)
            await registry.adopt(two)
            await until(registry, two.id, HealthState.READY)
            await registry.remove(two.id)
            await eventually(lambda: prober.vitals(two.id) is None)
            assert prober.vitals(one.id) is not None
            assert state(registry, one.id) is HealthState.READY
