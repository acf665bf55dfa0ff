"""Slots are granted once, given back once, and handed to the next who waits."""

import asyncio
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.queue.ledger import Ask, Candidate, Slot
from gateway.queue.memory import MemoryLedger

MODEL = "m"


def ledger() -> MemoryLedger:
    """A ledger on the loop's clock."""
    return MemoryLedger(asyncio.get_running_loop().time)


def ask(name: str, *replicas: str, limit: int = 1, rank: int = 1, **more: object) -> Ask:
    """A call that may run on these replicas."""
    candidates = tuple(Candidate(r, limit) for r in replicas)
    return Ask(name, MODEL, rank, arrived=0.0, candidates=candidates, **more)  # type: ignore[arg-type]


async def turn() -> None:
    """Let every task that can run do so."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_a_call_takes_the_first_candidate_with_room() -> None:
    slots = ledger()
    first = await slots.acquire(ask("1", "a", "b"), within_s=1)
    second = await slots.acquire(ask("2", "a", "b"), within_s=1)
    assert [first.replica_id, second.replica_id] == ["a", "b"]


async def test_a_freed_slot_goes_to_the_class_that_is_served_first() -> None:
    slots = ledger()
    held = await slots.acquire(ask("0", "a"), within_s=1)
    late = asyncio.create_task(slots.acquire(ask("offline", "a", rank=2), within_s=9))
    await turn()
    soon = asyncio.create_task(slots.acquire(ask("interactive", "a", rank=0), within_s=9))
    await turn()
    assert slots.waiting(MODEL) == 2
    slots.release(held)
    granted = await soon
    assert granted.call_id == "interactive"
    assert not late.done()
    slots.release(granted)
    slots.release(await late)
    assert (slots.held, slots.waiting(MODEL), slots.running("a")) == (0, 0, 0)


async def test_a_slot_given_back_twice_is_given_back_once() -> None:
    slots = ledger()
    held = await slots.acquire(ask("1", "a"), within_s=1)
    slots.release(held)
    slots.release(held)
    assert slots.running("a") == 0
    await slots.acquire(ask("2", "a"), within_s=1)
    with pytest.raises(TimeoutError):
        await slots.acquire(ask("3", "a"), within_s=0.01)


async def test_a_wait_that_ends_leaves_nothing_behind() -> None:
    slots = ledger()
    held = await slots.acquire(ask("1", "a"), within_s=1)
    waiting = asyncio.create_task(slots.acquire(ask("2", "a"), within_s=9))
    await turn()
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    slots.release(held)
    assert (slots.held, slots.waiting(MODEL)) == (0, 0)


async def test_a_grant_to_a_caller_who_leaves_at_once_is_taken_back() -> None:
    slots = ledger()
    held = await slots.acquire(ask("1", "a"), within_s=1)
    waiting = asyncio.create_task(slots.acquire(ask("2", "a"), within_s=9))
    await turn()
    slots.release(held)  # grants to the waiter, whose task has not run yet
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert slots.held == 0


async def test_a_replica_that_comes_is_offered_to_those_who_wait() -> None:
    slots = ledger()
    await slots.acquire(ask("1", "a"), within_s=1)
    waiting = asyncio.create_task(slots.acquire(ask("2", "a"), within_s=9))
    await turn()
    slots.offer(MODEL, (Candidate("new", 4),))
    assert (await waiting).replica_id == "new"


async def test_a_replica_that_failed_a_call_is_not_given_to_it_again() -> None:
    slots = ledger()
    await slots.acquire(ask("1", "a"), within_s=1)
    choosy = asyncio.create_task(
        slots.acquire(ask("2", "a", excluded=frozenset({"b"})), within_s=9)
    )
    await turn()
    slots.offer(MODEL, (Candidate("b", 1),))
    other = await slots.acquire(ask("3", "b"), within_s=1)
    assert other.replica_id == "b"
    assert not choosy.done()
    choosy.cancel()
    await asyncio.gather(choosy, return_exceptions=True)


@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from(["ask", "release", "cancel"]),
            st.integers(min_value=0, max_value=9),
            st.integers(min_value=0, max_value=2),
        ),
        max_size=60,
    )
)
@settings(max_examples=60, deadline=None)
def test_no_order_of_events_leaks_or_overfills(steps: list[tuple[str, int, int]]) -> None:
    asyncio.run(_play(steps))


async def _play(steps: list[tuple[str, int, int]]) -> None:
    slots = ledger()
    tasks: list[asyncio.Task[Slot]] = []
    held: Callable[[], list[Slot]] = lambda: [  # noqa: E731
        t.result() for t in tasks if t.done() and not t.cancelled()
    ]
    for number, (what, pick, rank) in enumerate(steps):
        if what == "ask":
            call = ask(str(number), "a", "b", limit=2, rank=rank)
            tasks.append(asyncio.create_task(slots.acquire(call, within_s=60)))
        elif what == "release" and held():
            slots.release(held()[pick % len(held())])
        elif what == "cancel" and tasks:
            tasks[pick % len(tasks)].cancel()
        await turn()
        assert 0 <= slots.running("a") <= 2
        assert 0 <= slots.running("b") <= 2
    for task in tasks:
        task.cancel()
    await turn()
    for slot in held():
        slots.release(slot)
    await turn()
    assert (slots.held, slots.waiting(MODEL)) == (0, 0)
