"""Does every gateway see the replicas that hold leases or were adopted, and lose none by an
outage?"""

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from redis.asyncio import Redis
from redis.exceptions import RedisError

from backends import records
from backends.fleet import Fleet, Health, HealthState, Load, Replica
from backends.lease import Lease, leased
from backends.records import Record
from backends.registry import Registry, replica_id
from backends.store import connect, open_store
from tests.waiting import eventually

ONE = Replica("one", "llama", "http://node-1:30000", api_key="sk-secret")
TWO = Replica("two", "llama", "http://node-2:30000")
OSS = Replica("oss", "oss", "http://node-3:30000", site="us", served_name="x", max_running=4)
READY = Health(HealthState.READY, 1.0)
LOAD = Load(at=1.0, seen_at=1.0, running=1, waiting=0)


def ids(fleet: Fleet, model: str = "llama") -> list[str]:
    return [s.replica.id for s in fleet.pool(model).standings]


def state(registry: Registry, replica_id: str) -> HealthState | None:
    standing = registry.fleet.standing(replica_id)
    return None if standing is None else standing.health.state


@contextlib.asynccontextmanager
async def at_work(registry: Registry) -> AsyncIterator[None]:
    task = asyncio.create_task(registry.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


async def test_configured_replicas_are_there_before_the_store_is_read(redis: Redis) -> None:
    registry = Registry(redis, configured=[TWO, OSS, ONE])
    assert ids(registry.fleet) == ["one", "two"]
    assert ids(registry.fleet, "oss") == ["oss"]
    assert not registry.fleet.pool("llama").routable
    assert registry.fleet.pool("nobody").standings == ()


async def test_a_lease_is_seen_by_all_with_all_that_it_says_and_given_up(redis: Redis) -> None:
    here, there = Registry(redis), Registry(redis)
    async with leased(redis, [ONE, OSS]):
        for registry in (here, there):
            await registry.refresh()
            standing = registry.fleet.standing("one")
            assert standing is not None
            assert standing.replica == ONE
            assert standing.replica.api_key == "sk-secret"
            assert ids(registry.fleet, "oss") == ["oss"]
            assert registry.fleet.pool("oss").standings[0].replica == OSS
    await here.refresh()
    assert not here.fleet.pools
    assert await redis.keys() == []


async def test_a_lease_that_nobody_renews_ends(redis: Redis) -> None:
    registry = Registry(redis, poll_s=0.05)
    await Lease(redis, [ONE], lease_s=0.5).renew()
    async with at_work(registry):
        await eventually(lambda: ids(registry.fleet) == ["one"])
        await eventually(lambda: ids(registry.fleet) == [])


async def test_heartbeats_keep_a_lease(redis: Redis) -> None:
    registry = Registry(redis)
    async with leased(redis, [ONE], lease_s=0.3):
        ends_at = set()

        async def renewed() -> bool:
            await registry.refresh()
            assert ids(registry.fleet) == ["one"]
            ends_at.add(await redis.zscore(records.LEASES, "one"))
            return len(ends_at) >= 5

        await eventually(renewed)


async def test_leases_of_the_dead_are_swept_by_the_living(redis: Redis) -> None:
    await Lease(redis, [ONE], lease_s=-700).renew()
    assert await redis.hlen(records.REPLICAS) == 0
    await Lease(redis, [ONE], lease_s=-500).renew()
    await Lease(redis, [TWO]).renew()
    assert await redis.hlen(records.REPLICAS) == 2


async def test_adoption_lasts_until_removal(redis: Redis) -> None:
    registry, other = Registry(redis), Registry(redis)
    await registry.adopt(ONE)
    assert ids(registry.fleet) == ["one"]
    await other.refresh()
    assert ids(other.fleet) == ["one"]
    assert await other.remove("one")
    assert ids(other.fleet) == []
    assert not await other.remove("one")
    assert await redis.keys() == []


async def test_draining_by_an_operator_and_back(redis: Redis) -> None:
    registry = Registry(redis, configured=[ONE, TWO])
    for each in ("one", "two"):
        registry.publish(each, READY, LOAD)
    assert [s.replica.id for s in registry.fleet.pool("llama").routable] == ["one", "two"]
    assert await registry.drain("one")
    assert state(registry, "one") is HealthState.DRAINING
    assert [s.replica.id for s in registry.fleet.pool("llama").routable] == ["two"]
    standing = registry.fleet.standing("one")
    assert standing is not None
    assert standing.load == LOAD
    assert standing.health.since_at > 0
    assert await registry.resume("one")
    assert state(registry, "one") is HealthState.READY
    assert not await registry.resume("one")
    assert not await registry.drain("nobody")


async def test_a_process_that_drains_is_not_routed_to(redis: Redis) -> None:
    registry = Registry(redis)
    async with leased(redis, [ONE]) as lease:
        await registry.refresh()
        registry.publish("one", READY, None)
        assert registry.fleet.pool("llama").routable
        await lease.drain()
        await registry.refresh()
        assert state(registry, "one") is HealthState.DRAINING


async def test_a_removed_lease_leaves_at_once_and_is_told(redis: Redis) -> None:
    registry = Registry(redis)
    async with leased(redis, [ONE, TWO], lease_s=0.3) as lease:
        await registry.refresh()
        assert await registry.remove("one")
        assert ids(registry.fleet) == ["two"]
        assert await registry.remove("two")
        async with asyncio.timeout(20):
            await lease.all_removed.wait()
        await registry.refresh()
        assert ids(registry.fleet) == []
        assert await redis.keys() == []
    async with leased(redis, [ONE]):  # a new process is welcome
        await registry.refresh()
        assert ids(registry.fleet) == ["one"]


async def test_a_configured_replica_stays_removed_until_it_is_wanted_again(redis: Redis) -> None:
    registry, other = (Registry(redis, configured=[ONE]) for _ in range(2))
    assert await registry.remove("one")
    await other.refresh()
    assert ids(other.fleet) == []
    await registry.adopt(ONE)
    assert ids(registry.fleet) == ["one"]


async def test_one_model_at_one_url_is_one_replica_and_the_lease_wins(redis: Redis) -> None:
    named = Replica(replica_id("llama", ONE.url + "/"), "llama", ONE.url + "/")
    registry = Registry(redis, configured=[named])
    async with leased(redis, [ONE]):
        await registry.refresh()
        assert ids(registry.fleet) == ["one"]
    await registry.refresh()
    assert ids(registry.fleet) == [named.id]


async def test_waiters_are_woken_by_changes_of_routability_alone(redis: Redis) -> None:
    registry = Registry(redis, configured=[ONE])
    told: list[None] = []
    end = registry.on_change(lambda: told.append(None))
    waiter = asyncio.create_task(registry.changed())
    await asyncio.sleep(0)
    registry.publish("one", Health(), LOAD)
    registry.publish("one", READY, LOAD)
    async with asyncio.timeout(20):
        await waiter
    assert len(told) == 1
    busier = Load(at=2.0, seen_at=2.0, running=9, waiting=0)
    registry.publish("one", READY, busier)

    def busier_seen() -> bool:
        standing = registry.fleet.standing("one")
        return standing is not None and standing.load == busier

    await eventually(busier_seen)
    assert len(told) == 1
    end()
    registry.publish("one", Health(HealthState.EJECTED), busier)
    assert state(registry, "one") is HealthState.EJECTED
    await registry.changed()
    assert len(told) == 1


async def test_a_snapshot_in_hand_does_not_change(redis: Redis) -> None:
    registry = Registry(redis, configured=[ONE])
    before = registry.fleet
    registry.publish("one", READY, None)
    assert before.pool("llama").standings[0].health == Health()
    assert registry.fleet is not before
    registry.publish("nobody", READY, None)


async def test_what_another_version_wrote_is_skipped(redis: Redis) -> None:
    registry = Registry(redis)
    good = records.encode(Record(ONE)).replace(b'"id"', b'"new_field":1,"id"')
    await redis.hset(records.ADOPTED, mapping={"one": good, "bad": b'{"id":"bad"}', "x": b"\xff"})
    await redis.hset(records.MARKS, "one", b"?")
    await registry.refresh()
    assert ids(registry.fleet) == ["one"]


def test_keys_are_not_shown() -> None:
    assert "sk-secret" not in repr(Record(ONE))


def test_an_id_follows_from_model_and_url() -> None:
    assert replica_id("m", "http://Node-1:30000/") == replica_id("m", "http://Node-1:30000")
    assert replica_id("m", "http://node-1:30000").startswith("node-1-30000-")
    assert replica_id("m", "http://node-1:30000") != replica_id("n", "http://node-1:30000")


async def test_an_outage_of_the_store_takes_nobody_out(tmp_path: Path) -> None:
    async with open_store(None, tmp_path) as store:
        redis = connect(store.url)
        registry = Registry(redis, poll_s=0.05)
        async with leased(redis, [ONE], lease_s=0.6), at_work(registry):
            await eventually(lambda: ids(registry.fleet) == ["one"])
            pid = int((await redis.info("server"))["process_id"])
            lost = asyncio.create_task(_never_without(registry, "one"))
            os.kill(pid, signal.SIGSTOP)  # hangs, longer than the lease
            await eventually(lambda: not registry.store_ok)
            os.kill(pid, signal.SIGKILL)
            await eventually(lambda: registry.store_ok)
            for _ in range(20):
                await registry.refresh()
                await asyncio.sleep(0.05)
            assert not lost.done()
            lost.cancel()
        await redis.aclose()


async def _never_without(registry: Registry, replica_id: str) -> None:
    while ids(registry.fleet) == [replica_id]:
        await asyncio.sleep(0.01)


async def test_a_store_that_lost_everything_gives_one_lease_of_grace(redis: Redis) -> None:
    registry = Registry(redis)
    await Lease(redis, [ONE, TWO], lease_s=0.5).renew()
    await registry.refresh()
    await _miss_once(registry)
    await redis.flushdb()
    await registry.refresh()
    assert ids(registry.fleet) == ["one", "two"]
    async with leased(redis, [TWO], lease_s=30):
        await registry.refresh()
        assert ids(registry.fleet) == ["one", "two"]
    await registry.refresh()  # seen since the return, then given up: gone at once
    assert "two" not in ids(registry.fleet)

    async def gone() -> bool:
        await registry.refresh()
        return ids(registry.fleet) == []

    await eventually(gone)


async def _miss_once(registry: Registry) -> None:
    """Let the registry find its store dead once."""
    alive, registry._store = registry._store, connect("redis://127.0.0.1:1/0")
    with pytest.raises(RedisError):
        await registry.refresh()
    assert not registry.store_ok
    await registry._store.aclose()
    registry._store = alive
