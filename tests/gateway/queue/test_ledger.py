"""Slots are granted once, given back once, and handed to the next who waits: any ledger."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from msgspec.structs import replace

from backends.store import connect
from gateway.queue.ledger import Ask, Backlog, Candidate, Cost, Slot
from gateway.queue.memory import MemoryLedger
from gateway.queue.redis_ledger import RedisLedger
from tests.gateway.queue.asks import MODEL, Caller, Inspectable, ask, emptied
from tests.waiting import eventually


@pytest.fixture(params=["memory", "redis"])
async def ledger(request: pytest.FixtureRequest, redis_url: str) -> AsyncIterator[Inspectable]:
    """Each ledger in turn, with a starvation bound that no test reaches by chance."""
    if request.param == "memory":
        yield MemoryLedger(asyncio.get_running_loop().time, starvation_s=60)
        return
    client = connect(redis_url)
    shared = RedisLedger(client, starvation_s=60)
    running = asyncio.create_task(shared.run())
    yield shared
    running.cancel()
    await asyncio.wait([running])
    await shared.aclose()
    await client.aclose()


async def test_a_call_takes_the_first_candidate_with_room(ledger: Inspectable) -> None:
    first = await ledger.acquire(ask("1", "a", "b"), within_s=5)
    second = await ledger.acquire(ask("2", "a", "b"), within_s=5)
    assert [first.replica_id, second.replica_id] == ["a", "b"]
    assert first.lease_id != second.lease_id


async def test_a_freed_slot_goes_to_the_class_that_is_served_first(ledger: Inspectable) -> None:
    held = await ledger.acquire(ask("0", "a"), within_s=5)
    caller = Caller(ledger)
    await caller.queue(ask("offline", "a", rank=2))
    await caller.queue(ask("interactive", "a", rank=0))
    await caller.queue(ask("server", "a", rank=1))
    assert await caller.serve_one_by_one(held) == ["interactive", "server", "offline"]


async def test_inside_a_tenant_the_earliest_deadline_is_first(ledger: Inspectable) -> None:
    held = await ledger.acquire(ask("0", "a"), within_s=5)
    caller = Caller(ledger)
    for name, by in (("late", 30.5), ("never", float("inf")), ("soon", 10.25), ("soon 2", 10.25)):
        await caller.queue(ask(name, "a", first_token_by=by))
    assert await caller.serve_one_by_one(held) == ["soon", "soon 2", "late", "never"]


async def test_tenants_share_a_class_by_their_weights_in_work(ledger: Inspectable) -> None:
    held = await ledger.acquire(ask("0", "a", tenant="else"), within_s=5)
    caller = Caller(ledger)
    for number in range(9):
        await caller.queue(ask(f"x{number}", "a", tenant="x", weight=2.0, work_s=1.0))
    for number in range(9):
        await caller.queue(ask(f"y{number}", "a", tenant="y", weight=1.0, work_s=1.0))
    for number in range(9):
        await caller.queue(ask(f"z{number}", "a", tenant="z", weight=1.0, work_s=0.5))
    served = "".join(name[0] for name in await caller.serve_one_by_one(held))
    assert [served[:15].count(each) for each in "xyz"] == [6, 3, 6]


async def test_a_tenant_that_floods_the_queue_waits_for_itself(ledger: Inspectable) -> None:
    held = await ledger.acquire(ask("0", "a", tenant="flood"), within_s=5)
    caller = Caller(ledger)
    for number in range(20):
        await caller.queue(ask(f"flood {number}", "a", tenant="flood", first_token_by=1.0))
    await caller.queue(ask("modest", "a", tenant="modest", first_token_by=9.0))
    assert (await caller.serve_one_by_one(held)).index("modest") <= 1


async def test_what_waits_is_told_by_class(ledger: Inspectable) -> None:
    held = await ledger.acquire(ask("0", "a"), within_s=5)
    caller = Caller(ledger)
    await caller.queue(ask("1", "a", rank=0, work_s=0.25))
    await caller.queue(ask("2", "a", rank=2, work_s=0.5))
    await caller.queue(ask("3", "a", rank=2, work_s=0.125))
    assert ledger.backlog(MODEL) == {0: Backlog(1, 0.25), 2: Backlog(2, 0.625)}
    assert ledger.waiting(MODEL) == 3
    await caller.serve_one_by_one(held)
    await emptied(ledger, "a")
    assert not ledger.backlog(MODEL)
    assert ledger.drain_per_s(MODEL) == pytest.approx(0.4)
    assert ledger.work_per_s(MODEL) == pytest.approx(0.1875)


async def test_a_slot_given_back_twice_is_given_back_once(ledger: Inspectable) -> None:
    held = await ledger.acquire(ask("1", "a"), within_s=5)
    ledger.release(held)
    ledger.release(held)
    await ledger.acquire(ask("2", "a"), within_s=5)
    ledger.release(held)
    with pytest.raises(TimeoutError):
        await ledger.acquire(ask("3", "a"), within_s=0.05)
    assert ledger.running("a") == 1


async def test_a_call_may_ask_again_after_its_first_replica_failed(ledger: Inspectable) -> None:
    first = await ledger.acquire(ask("1", "a", "b"), within_s=5)
    ledger.release(first)
    second = await ledger.acquire(ask("1", "b", excluded=frozenset({"a"})), within_s=5)
    ledger.release(first)
    assert second.replica_id == "b"
    await eventually(lambda: (ledger.running("a"), ledger.running("b")) == (0, 1))


async def test_a_wait_that_ends_leaves_nothing_behind(ledger: Inspectable) -> None:
    held = await ledger.acquire(ask("1", "a"), within_s=5)
    waiting = await Caller(ledger).queue(ask("2", "a"))
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    ledger.release(held)
    await emptied(ledger, "a")


@pytest.mark.parametrize("turns", range(12))
async def test_a_call_that_leaves_at_any_moment_leaves_nothing_behind(
    ledger: Inspectable, turns: int
) -> None:
    held = await ledger.acquire(ask("1", "a"), within_s=5)
    waiting = await Caller(ledger).queue(ask("2", "a"))
    ledger.release(held)  # it may be granted before, while or after it leaves
    for _ in range(turns):
        await asyncio.sleep(0.0002 if turns > 6 else 0)
    waiting.cancel()
    found = (await asyncio.gather(waiting, return_exceptions=True))[0]
    if isinstance(found, Slot):
        ledger.release(found)
    await emptied(ledger, "a")


async def test_a_call_that_leaves_before_it_was_asked_for_leaves_nothing(
    ledger: Inspectable,
) -> None:
    task = asyncio.create_task(ledger.acquire(ask("1", "a"), within_s=5))
    await asyncio.sleep(0)
    task.cancel()
    found = (await asyncio.gather(task, return_exceptions=True))[0]
    if isinstance(found, Slot):
        ledger.release(found)
    await emptied(ledger, "a")


async def test_a_replica_that_comes_is_offered_to_those_who_wait(ledger: Inspectable) -> None:
    await ledger.acquire(ask("1", "a"), within_s=5)
    waiting = await Caller(ledger).queue(ask("2", "a"))
    ledger.offer(MODEL, (Candidate("new", 4),))
    assert (await waiting).replica_id == "new"


async def test_a_replica_that_went_is_given_to_nobody(ledger: Inspectable) -> None:
    held = await ledger.acquire(ask("1", "a", "b", limit=1), within_s=5)
    other = await ledger.acquire(ask("2", "a", "b", limit=1), within_s=5)
    waiting = await Caller(ledger).queue(ask("3", "a", "b"))
    ledger.offer(MODEL, (Candidate("b", 1),))
    ledger.release(held)
    await eventually(lambda: ledger.running("a") == 0)
    assert not waiting.done()
    ledger.release(other)
    assert (await waiting).replica_id == "b"


async def test_a_replica_that_failed_a_call_is_not_given_to_it_again(
    ledger: Inspectable,
) -> None:
    await ledger.acquire(ask("1", "a"), within_s=5)
    choosy = await Caller(ledger).queue(ask("2", "a", excluded=frozenset({"b"})))
    ledger.offer(MODEL, (Candidate("a", 1), Candidate("b", 1)))
    other = await ledger.acquire(ask("3", "b"), within_s=5)
    assert other.replica_id == "b"
    assert not choosy.done()
    choosy.cancel()
    await asyncio.gather(choosy, return_exceptions=True)


def sized(name: str, cost: Cost, *, rank: int = 1, kv: int = 1000, prefill: int = 100) -> Ask:
    """Make the ask of a call that costs so much, on one replica."""
    candidate = Candidate("a", 8, kv, prefill)
    return Ask(call_id=name, model=MODEL, candidates=(candidate,), rank=rank, cost=cost)


async def test_prefill_tokens_in_flight_are_bounded_until_the_first_token(
    ledger: Inspectable,
) -> None:
    first = await ledger.acquire(sized("1", Cost(1, 10, 80)), within_s=5)
    waiting = await Caller(ledger).queue(sized("2", Cost(1, 10, 30)))
    assert ledger.outstanding("a") == Cost(1, 10, 80)
    ledger.first_token(first)
    ledger.first_token(first)
    second = await waiting
    await eventually(lambda: ledger.outstanding("a") == Cost(2, 20, 30))
    ledger.release(first)
    ledger.release(second)
    await emptied(ledger, "a")
    assert ledger.outstanding("a") == Cost(0)


async def test_resident_tokens_are_bounded(ledger: Inspectable) -> None:
    first = await ledger.acquire(sized("1", Cost(1, 700, 0)), within_s=5)
    waiting = await Caller(ledger).queue(sized("2", Cost(1, 400, 0)))
    small = await ledger.acquire(sized("3", Cost(1, 300, 0)), within_s=5)
    ledger.release(small)
    await eventually(lambda: ledger.running("a") == 1)
    assert not waiting.done()
    ledger.release(first)
    await waiting


async def test_a_call_larger_than_a_bound_runs_where_no_other_does(ledger: Inspectable) -> None:
    first = await ledger.acquire(sized("1", Cost(1, 1, 1)), within_s=5)
    waiting = await Caller(ledger).queue(sized("2", Cost(1, 5000, 500)))
    ledger.release(first)
    huge = await waiting
    assert ledger.outstanding("a") == Cost(1, 5000, 500)
    ledger.release(huge)
    await emptied(ledger, "a")


async def test_the_tightest_class_on_a_replica_bounds_it(ledger: Inspectable) -> None:
    fast = await ledger.acquire(ask("fast", "a", limit=2, rank=0), within_s=5)
    await ledger.acquire(ask("1", "a", limit=4, rank=1), within_s=5)
    waiting = await Caller(ledger).queue(ask("2", "a", limit=4, rank=1))
    assert ledger.running("a") == 2
    ledger.release(fast)
    await waiting
    await ledger.acquire(ask("3", "a", limit=4, rank=1), within_s=5)
    with pytest.raises(TimeoutError):
        await ledger.acquire(ask("fast 2", "a", limit=2, rank=0), within_s=0.05)


async def test_a_class_leaves_spare_sequences_to_others(ledger: Inspectable) -> None:
    await ledger.acquire(ask("fast 1", "a", limit=3, rank=0), within_s=5)
    roomy = Ask(call_id="slow", model=MODEL, candidates=(Candidate("a", 3, spare=1),), rank=1)
    slow = await ledger.acquire(roomy, within_s=5)
    waiting = await Caller(ledger).queue(replace(roomy, call_id="slow 2"))
    fast = await ledger.acquire(ask("fast 2", "a", limit=3, rank=0), within_s=5)
    assert not waiting.done()
    ledger.release(fast)
    ledger.release(slow)
    await waiting


async def test_a_class_that_may_not_be_filled_any_more_binds_nobody(ledger: Inspectable) -> None:
    await ledger.acquire(ask("slow", "a", limit=4, rank=1), within_s=5)
    ledger.offer(MODEL, (Candidate("a", 0),), rank=1)
    await ledger.acquire(ask("fast", "a", limit=2, rank=0), within_s=5)
    with pytest.raises(TimeoutError):
        await ledger.acquire(
            Ask(call_id="slow 2", model=MODEL, candidates=(Candidate("a", 0),), rank=1),
            within_s=0.05,
        )


async def test_a_class_that_is_full_leaves_room_to_the_next(ledger: Inspectable) -> None:
    for number in range(2):
        await ledger.acquire(ask(f"{number}", "a", limit=4, rank=1), within_s=5)
    fast = await Caller(ledger).queue(ask("fast", "a", limit=2, rank=0))
    await ledger.acquire(ask("slow", "a", limit=4, rank=1), within_s=5)
    assert not fast.done()
    ledger.offer(MODEL, (Candidate("a", 4),), rank=0)
    await fast


async def test_a_class_that_is_passed_over_gets_a_slot_in_the_end(redis_url: str) -> None:
    client = connect(redis_url)
    for impatient in (
        MemoryLedger(asyncio.get_running_loop().time, starvation_s=0.1),
        RedisLedger(client, starvation_s=0.1),
    ):
        held = await impatient.acquire(ask("0", "a", rank=0), within_s=5)
        low = await Caller(impatient).queue(ask("low", "a", rank=9))
        served = 0
        while not low.done():
            high = await Caller(impatient).queue(ask(f"high {served}", "a", rank=0))
            impatient.release(held)
            done, _ = await asyncio.wait([high, low], return_when=asyncio.FIRST_COMPLETED)
            if low in done:
                impatient.release(low.result())
                held = await high
            else:
                held = high.result()
            served += 1
        assert served > 1
        impatient.release(held)
        await emptied(impatient, "a")
        if isinstance(impatient, RedisLedger):
            await impatient.aclose()
    await client.aclose()
