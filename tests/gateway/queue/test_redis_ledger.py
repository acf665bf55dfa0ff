"""Several gateways share one queue, and outlive one another, the store, and lost answers."""

import asyncio
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis

from backends.store import connect, open_store
from gateway.line import Line
from gateway.queue.ledger import Ask, Backlog, Candidate, Cost, Slot
from gateway.queue.operations import PREFIX, WAITING, read_waiting
from gateway.queue.redis_ledger import RedisLedger
from gateway.queue.shared import SPARE_S
from gateway.scripts import Script
from tests.gateway.queue.asks import MODEL, Caller, ask, emptied
from tests.waiting import eventually

QUEUE = f"{PREFIX}{{{MODEL}}}"


@asynccontextmanager
async def gateway(
    url: str, *, tells_spare: bool = True, spare_s: float = SPARE_S
) -> AsyncIterator[RedisLedger]:
    """One gateway's ledger, with its tasks."""
    client = connect(url)
    ledger = RedisLedger(client, starvation_s=60, tells_spare=tells_spare, spare_s=spare_s)
    running = asyncio.create_task(ledger.run())
    try:
        yield ledger
    finally:
        running.cancel()
        await asyncio.wait([running])
        await ledger.aclose()
        await client.aclose()


async def leases(redis: Redis, *replicas: str) -> int:
    """Count the leases in the store."""
    return sum([int(await redis.hlen(f"{QUEUE}:on:{each}")) for each in replicas])


async def test_the_store_is_the_one_that_this_run_is_for(redis: Redis, server_path: str) -> None:
    told = await redis.info("server")
    is_valkey = told.get("server_name") == "valkey"
    assert is_valkey is not (Path(server_path) / "redis-server").exists()


async def test_a_slot_that_one_gateway_frees_goes_to_another(redis_url: str) -> None:
    async with gateway(redis_url) as one, gateway(redis_url) as two:
        held = await one.acquire(ask("1", "a"), within_s=5)
        waiting = await Caller(two).queue(ask("2", "a"))
        one.release(held)
        slot = await waiting
        await eventually(lambda: two.running("a") == 1)
        two.release(slot)
        await emptied(two, "a")


async def test_a_call_that_finds_no_slot_is_told_of(redis_url: str, redis: Redis) -> None:
    async with gateway(redis_url) as one, redis.pubsub() as ear:
        await ear.subscribe(WAITING)
        assert (await ear.get_message(timeout=5) or {})["type"] == "subscribe"
        held = await one.acquire(ask("1", "a"), within_s=5)
        waiting = await Caller(one).queue(ask("2", "a", rank=0, work_s=0.25))
        message = await ear.get_message(timeout=5) or {}
        assert read_waiting(message["data"]) == (MODEL, {0: Backlog(1, 0.25)})
        assert [slot.call_id for slot in one.slots(MODEL)] == ["1"]
        one.release(held)
        one.release(await waiting)
        await emptied(one, "a")
        assert await ear.get_message(timeout=0.1) is None  # who has a slot does not wait


async def test_a_call_takes_over_a_slot_that_another_one_has_left(
    redis_url: str, redis: Redis
) -> None:
    async with gateway(redis_url) as one:
        first = await one.acquire(ask("1", "a", cost=Cost(1, 10, 5)), within_s=5)
        await eventually(lambda: not one.untold)
        one.release(first)
        assert one.outstanding("a") == Cost(0)
        second = await one.acquire(ask("2", "a", cost=Cost(1, 20, 5)), within_s=5)
        assert second.waited_s == 0.0  # the store was not asked
        await eventually(lambda: not one.untold)
        assert await redis.hkeys(f"{QUEUE}:on:a") == [second.lease_id.encode()]
        assert one.outstanding("a") == Cost(1, 20, 5)
        assert one.drain_per_s(MODEL) == pytest.approx(0.1)
        one.release(first)  # twice is the same as once
        assert one.held == 1
        one.release(second)
        await emptied(one, "a")
        assert one.drain_per_s(MODEL) == pytest.approx(0.2)


async def test_a_call_takes_no_slot_over_that_it_does_not_fit(redis_url: str) -> None:
    async with gateway(redis_url) as one:
        candidates = (Candidate("a", 2, kv_tokens=100),)
        other = await one.acquire(
            Ask(call_id="1", model=MODEL, candidates=candidates, rank=1, cost=Cost(1, 50, 0)),
            within_s=5,
        )
        small = await one.acquire(
            Ask(call_id="2", model=MODEL, candidates=candidates, rank=1, cost=Cost(1, 10, 0)),
            within_s=5,
        )
        one.release(small)
        large = Ask(call_id="3", model=MODEL, candidates=candidates, rank=1, cost=Cost(1, 60, 0))
        with pytest.raises(TimeoutError):
            await one.acquire(large, within_s=0.1)
        one.release(other)
        slot = await one.acquire(large, within_s=5)
        one.release(slot)
        await emptied(one, "a")


async def test_a_call_that_leaves_as_it_takes_a_slot_over_leaves_nothing(redis_url: str) -> None:
    async with gateway(redis_url) as one:
        one.release(await one.acquire(ask("1", "a"), within_s=5))
        leaving = asyncio.create_task(one.acquire(ask("2", "a"), within_s=5))
        await asyncio.sleep(0)
        assert one.held == 1
        leaving.cancel()
        await asyncio.wait([leaving])
        await emptied(one, "a")


async def test_a_spare_slot_goes_to_a_call_that_begins_to_wait_elsewhere(redis_url: str) -> None:
    async with gateway(redis_url, spare_s=3600) as one, gateway(redis_url) as two:
        one.release(await one.acquire(ask("1", "a"), within_s=5))
        assert one.untold
        slot = await two.acquire(ask("2", "a"), within_s=20)
        two.release(slot)
        await emptied(two, "a")


async def test_a_spare_slot_counts_for_nothing_after_further_batches(redis_url: str) -> None:
    async with gateway(redis_url, spare_s=3600) as one:
        one.release(await one.acquire(ask("1", "a"), within_s=5))
        slot = await one.acquire(ask("2", "b"), within_s=5)  # a batch of its own, and its answer
        assert (one.running("a"), one.running("b")) == (0, 1)
        one.release(slot)
        again = await one.acquire(ask("3", "a"), within_s=5)
        assert (one.running("a"), one.running("b")) == (1, 0)
        one.release(again)


async def test_the_order_holds_over_all_gateways(redis_url: str) -> None:
    async with gateway(redis_url) as one, gateway(redis_url) as two:
        held = await one.acquire(ask("0", "a"), within_s=5)
        order: list[str] = []

        async def call(ledger: RedisLedger, name: str, rank: int) -> None:
            slot = await ledger.acquire(ask(name, "a", rank=rank), within_s=20)
            order.append(name)
            ledger.release(slot)

        tasks = []
        for number, (ledger, rank) in enumerate([(one, 2), (two, 1), (one, 0), (two, 2), (one, 1)]):
            tasks.append(asyncio.create_task(call(ledger, f"{rank}{number}", rank)))
            await eventually(lambda n=number, of=ledger: of.waiting(MODEL) == n + 1)  # type: ignore[misc]
        one.release(held)
        await asyncio.gather(*tasks)
        assert order == sorted(order)


async def test_a_slot_whose_message_was_lost_comes_with_the_next_round(redis_url: str) -> None:
    client = connect(redis_url)
    deaf = RedisLedger(client, starvation_s=60)
    async with gateway(redis_url) as one:
        held = await one.acquire(ask("1", "a"), within_s=5)
        rounds = asyncio.create_task(deaf._rounds())
        waiting = await Caller(deaf).queue(ask("2", "a"))
        one.release(held)
        deaf.release(await waiting)
        rounds.cancel()
        await asyncio.wait([rounds])
        await deaf.aclose()
        await client.aclose()
        await emptied(one, "a")


class Twice(Script):
    """Has every batch done twice, as when an answer is lost, and gives the second answer."""

    times = 0

    async def on(self, line: Line, keys: list[str], arguments: list[Any]) -> Any:
        first = await super().on(line, keys, arguments)
        second = await super().on(line, keys, arguments)
        assert first == second
        self.times += 1
        return second


async def test_a_batch_that_is_sent_twice_counts_once(redis_url: str, redis: Redis) -> None:
    async with gateway(redis_url) as one:
        one._script = twice = Twice("gateway.queue", "ledger.lua")
        slots = [await one.acquire(ask(f"{n}", "a", limit=3), within_s=5) for n in range(3)]
        waiting = [await Caller(one).queue(ask(f"{n}", "a", limit=3)) for n in range(3, 6)]
        assert (one.running("a"), one.waiting(MODEL)) == (3, 3)
        for slot in slots:
            one.first_token(slot)
            one.release(slot)
        for slot in await asyncio.gather(*waiting):
            one.release(slot)
        await emptied(one, "a")
        assert await leases(redis, "a") == 0
        assert twice.times > 3


async def test_a_gateway_that_ends_gives_everything_back(redis_url: str, redis: Redis) -> None:
    async with gateway(redis_url) as stays:
        async with gateway(redis_url) as ends:
            await ends.acquire(ask("1", "a"), within_s=5)
            waiting = await Caller(stays).queue(ask("2", "a"))
        await waiting
        await eventually(lambda: stays.gateways == 1)
        assert await leases(redis, "a") == 1
        assert await redis.hlen(f"{QUEUE}:gateways") == 1


async def hold_and_wait(url: str) -> None:
    """Be a gateway that holds two slots and lets three calls wait, until it is killed."""
    async with gateway(url) as ledger:
        for number in range(2):
            await ledger.acquire(ask(f"held {number}", "a", limit=2), within_s=5)
        for number in range(3):
            await Caller(ledger).queue(ask(f"waits {number}", "a", limit=2, rank=0))
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        await asyncio.Event().wait()


@pytest.mark.system
async def test_what_a_killed_gateway_held_comes_free(redis_url: str, redis: Redis) -> None:
    program = (
        "import asyncio, sys; from tests.gateway.queue.test_redis_ledger import hold_and_wait;"
        "asyncio.run(hold_and_wait(sys.argv[1]))"
    )
    doomed = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, redis_url, stdout=subprocess.PIPE
    )
    assert doomed.stdout is not None
    assert await doomed.stdout.readline() == b"ready\n"
    async with gateway(redis_url) as survivor:
        waiting = await Caller(survivor).queue(ask("1", "a", limit=2))
        assert (survivor.running("a"), survivor.waiting(MODEL)) == (2, 4)
        doomed.kill()
        await doomed.wait()
        slot = await waiting
        await eventually(lambda: (survivor.running("a"), survivor.waiting(MODEL)) == (1, 0))
        survivor.release(slot)
        await emptied(survivor, "a")
        left = {str(bytes(key), "utf-8") async for key in redis.scan_iter(f"{QUEUE}:*")}
        mine = {f"{QUEUE}:{what}" for what in ("meta", "gateways", "finish")}
        own = {f"{QUEUE}:{what}:{survivor.gateway}" for what in ("view", "done")}
        assert left <= mine | own


async def test_in_a_store_of_schema_1_bounds_are_what_that_schema_s_gateways_read(
    redis_url: str, redis: Redis
) -> None:
    bound = Candidate("a", 2, kv_tokens=50, spare=1)
    call = Ask(call_id="1", model=MODEL, rank=1, candidates=(bound,))
    for tells_spare, told in ((False, b"2 50 "), (True, b"2 50  1")):
        async with gateway(redis_url, tells_spare=tells_spare) as one:
            one.release(await one.acquire(call, within_s=5))
            view = await redis.hgetall(f"{QUEUE}:view:{one.gateway}")
            assert set(view.values()) == {told}
            assert bool(re.fullmatch(rb"(\d+) (\d*) (\d*)", told)) is not tells_spare  # schema 1


async def test_a_gateway_that_was_thought_dead_tells_what_it_holds(
    redis_url: str, redis: Redis
) -> None:
    async with gateway(redis_url) as one:
        held = await one.acquire(ask("1", "a", limit=2, cost=Cost(1, 100, 10)), within_s=5)
        await redis.flushdb()
        second = await one.acquire(ask("2", "a", limit=2), within_s=5)
        await eventually(lambda: one.outstanding("a") == Cost(2, 100, 10))
        with pytest.raises(TimeoutError):
            await one.acquire(ask("3", "a", limit=2), within_s=0.1)
        one.release(held)
        one.release(second)
        await emptied(one, "a")


async def _server(url: str) -> int:
    client = connect(url)
    found: dict[str, Any] = await client.info("server")
    await client.aclose()
    return int(found["process_id"])


@pytest.mark.system
async def test_a_store_that_is_killed_loses_no_slot(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(open_store(None, tmp_path))
        one = await stack.enter_async_context(gateway(store.url))
        two = await stack.enter_async_context(gateway(store.url))
        held = [await one.acquire(ask(f"{n}", "a", limit=4), within_s=5) for n in range(4)]
        waiting = await Caller(two).queue(ask("4", "a", limit=4))
        os.kill(await _server(store.url), signal.SIGKILL)
        await asyncio.sleep(0)
        later = asyncio.create_task(one.acquire(ask("5", "a", limit=4), within_s=30))
        await eventually(lambda: not one.away and not two.away)
        await eventually(lambda: one.running("a") >= 4)
        for each in held:
            one.release(each)
        for ledger, task in ((two, waiting), (one, later)):
            slot = await task
            ledger.release(slot)
        await emptied(one, "a")
        await emptied(two, "a")


@pytest.mark.system
async def test_without_the_store_each_gateway_has_its_share(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(open_store(None, tmp_path))
        both = [await stack.enter_async_context(gateway(store.url)) for _ in range(2)]
        for ledger in both:
            ledger.offer(MODEL, (Candidate("a", 4),))
        await eventually(lambda: all(ledger.gateways == 2 for ledger in both))
        kept = await both[0].acquire(ask("0", "a", limit=4), within_s=5)
        server = await _server(store.url)
        os.kill(server, signal.SIGSTOP)
        try:
            tasks = [
                asyncio.create_task(ledger.acquire(ask(f"{n}", "a", limit=4), within_s=60))
                for ledger in both
                for n in range(4)
            ]
            await eventually(lambda: all(ledger.away for ledger in both))
            await eventually(lambda: sum(task.done() for task in tasks) == 3)
            assert [ledger.held for ledger in both] == [2, 2]
        finally:
            os.kill(server, signal.SIGCONT)
        await eventually(lambda: not any(ledger.away for ledger in both))
        await eventually(lambda: all(ledger.running("a") == 4 for ledger in both))
        assert sum(task.done() for task in tasks) == 3
        both[0].release(kept)
        for number in range(len(tasks)):
            await eventually(lambda n=number: sum(task.done() for task in tasks) > n)  # type: ignore[misc]
            for task in tasks:
                for ledger in both:
                    if task.done():
                        ledger.release(task.result())
        for ledger in both:
            await emptied(ledger, "a")


@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from(["ask", "ask", "release", "cancel", "first token", "turn"]),
            st.integers(0, 20),
            st.integers(0, 2),
        ),
        min_size=10,
        max_size=60,
    )
)
@settings(
    max_examples=12,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_no_order_of_events_leaks_or_overfills(
    redis_url: str, steps: list[tuple[str, int, int]]
) -> None:
    asyncio.run(_play(redis_url, steps))


class Play:
    """Calls of two gateways, whatever becomes of them."""

    def __init__(self, *ledgers: RedisLedger) -> None:
        self.ledgers = ledgers
        self.calls: list[tuple[RedisLedger, asyncio.Task[Slot]]] = []
        self.released: set[str] = set()

    def ask(self, pick: int, rank: int) -> None:
        """Let a call ask."""
        number = len(self.calls)
        asked = ask(f"{number}", "a", "b", limit=2, rank=rank, tenant=f"{pick % 3}")
        ledger = self.ledgers[number % len(self.ledgers)]
        task = asyncio.create_task(ledger.acquire(asked, within_s=60))
        self.calls.append((ledger, task))

    def end(self, what: str, pick: int) -> None:
        """Release, note a first token, or cancel."""
        ledger, task = self.calls[pick % len(self.calls)]
        if what == "cancel":
            task.cancel()
        elif task.done() and not task.cancelled():
            if what == "release":
                self.released.add(task.result().lease_id)
                ledger.release(task.result())
            else:
                ledger.first_token(task.result())

    def slots(self) -> list[Slot]:
        """Give all slots that were ever granted."""
        return [task.result() for _, task in self.calls if task.done() and not task.cancelled()]

    def check(self) -> None:
        """No slot twice, no replica beyond its bound."""
        slots = self.slots()
        on = Counter(slot.replica_id for slot in slots if slot.lease_id not in self.released)
        assert all(count <= 2 for count in on.values())
        assert len({slot.lease_id for slot in slots}) == len(slots)


async def _play(url: str, steps: list[tuple[str, int, int]]) -> None:
    async with gateway(url) as one, gateway(url) as two:
        play = Play(one, two)
        for what, pick, rank in steps:
            if what == "turn":
                await asyncio.sleep(0.001 * (pick % 3))
            elif what == "ask":
                play.ask(pick, rank)
            elif play.calls:
                play.end(what, pick)
            play.check()
        for _, task in play.calls:
            task.cancel()
        await asyncio.gather(*(task for _, task in play.calls), return_exceptions=True)
        play.check()
        for slot in play.slots():
            for ledger in play.ledgers:
                ledger.release(slot)
        for ledger in play.ledgers:
            await emptied(ledger, "a", "b")
