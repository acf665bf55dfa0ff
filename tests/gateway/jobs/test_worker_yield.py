"""Rows of batches make room for tighter calls, the newest first, and not too many."""

import asyncio
from typing import Any, cast

import pytest

from gateway.call import Receipt
from gateway.queue.ledger import Backlog, Cost, Slot
from gateway.worker_yield import MOST_SAVED, PATIENT_S, Credit, Yielded, Yielding, beyond
from tests.waiting import eventually

MODEL = "m"
INTERACTIVE, OFFLINE = 0, 2


def slot(call_id: str, replica_id: str = "shared", granted_at: float = 0.0) -> Slot:
    return Slot(call_id, replica_id, MODEL, call_id, OFFLINE, Cost(), 1.0, granted_at, 0.0)


async def served() -> Receipt:
    """Run like a row that takes for ever."""
    await asyncio.Event().wait()
    raise AssertionError


class Rows:
    """Rows that run: r0 to r3, each newer than the one before; r3 on a replica of its own.

    On the other, which is kept for a tighter class, one may stay.
    """

    def __init__(self, *, patient_s: float = PATIENT_S) -> None:
        self.slots = [slot(f"r{n}", "deep" if n == 3 else "shared", float(n)) for n in range(4)]
        stay = {"shared": 1, "deep": None}
        self.backlog = {INTERACTIVE: Backlog(1, 1.0)}
        self.yielding = Yielding(
            cast("Any", None),
            lambda _: self.slots,
            lambda _, replica, rank: stay[replica] if rank == OFFLINE else None,
            lambda _: self.backlog,
            patient_s=patient_s,
            look_s=0.01,
        )
        self.tasks: dict[str, asyncio.Task[Receipt]] = {}

    async def __aenter__(self) -> "Rows":
        for each in self.slots:
            work = self.yielding.run(each.call_id, MODEL, served())
            self.tasks[each.call_id] = asyncio.create_task(work)
        await asyncio.sleep(0)
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self.tasks.values():
            task.cancel()
        await asyncio.gather(*self.tasks.values(), return_exceptions=True)

    async def yielded(self) -> list[str]:
        """Say who has made room."""
        await asyncio.sleep(0.01)
        found = []
        for name, task in self.tasks.items():
            if task.done():
                with pytest.raises(Yielded):
                    task.result()
                found.append(name)
        return found


async def test_rows_beyond_what_may_stay_yield_the_newest_first() -> None:
    async with Rows() as rows:
        rows.yielding.wait(MODEL, {INTERACTIVE: Backlog(1, 1.0)})
        assert await rows.yielded() == ["r1", "r2"]


async def test_who_waits_still_is_seen_though_nothing_is_told() -> None:
    async with Rows(patient_s=0.01) as rows:
        watching = asyncio.create_task(rows.yielding.watch())
        await eventually(lambda: any(task.done() for task in rows.tasks.values()))
        watching.cancel()
        assert await rows.yielded() == ["r1", "r2"]


async def test_rows_yield_only_to_those_who_wait_still_a_moment_later() -> None:
    async with Rows(patient_s=0.0) as rows:
        waiting, rows.backlog = rows.backlog, {}
        rows.yielding.hear(MODEL, waiting)
        assert await rows.yielded() == []  # it has got its slot meanwhile
        rows.backlog = waiting
        rows.yielding.hear(MODEL, waiting)
        assert not rows.tasks["r2"].done()  # nothing happens at once
        assert await rows.yielded() == ["r1", "r2"]


async def test_rows_do_not_yield_to_other_rows_or_to_nobody() -> None:
    async with Rows() as rows:
        rows.yielding.wait(MODEL, {OFFLINE: Backlog(5, 1.0)})
        rows.yielding.wait(MODEL, {})
        assert await rows.yielded() == []


async def test_a_row_that_is_cancelled_itself_has_not_yielded() -> None:
    async with Rows() as rows:
        rows.yielding.wait(MODEL, {INTERACTIVE: Backlog(1, 1.0)})
        rows.tasks["r2"].cancel()
        await asyncio.wait([rows.tasks["r2"]])
        assert rows.tasks["r2"].cancelled()


async def test_without_credit_no_row_yields_and_with_little_only_the_newest() -> None:
    async with Rows() as rows:
        rows.yielding.credit.spend(int(MOST_SAVED))
        rows.yielding.wait(MODEL, {INTERACTIVE: Backlog(2, 1.0)})
        assert await rows.yielded() == []
        rows.yielding.credit.left = 1.0
        rows.yielding.wait(MODEL, {INTERACTIVE: Backlog(2, 1.0)})
        assert await rows.yielded() == ["r2"]


def test_yields_are_a_fifth_of_the_rows_that_end() -> None:
    credit = Credit(left=0.0)
    for _ in range(100):
        credit.earn()
    assert credit.spend(1000) in (19, 20)
    for _ in range(10_000):
        credit.earn()
    assert credit.spend(1000) == MOST_SAVED


def test_one_replica_is_freed_at_a_time_the_one_that_costs_least() -> None:
    rows = [
        slot(f"{replica}{n}", replica, n) for replica in "abc" for n in range(ord(replica) - 93)
    ]
    stay = {"a": None, "b": 2, "c": 2}
    found = beyond(rows, lambda replica, _: stay[replica])
    assert [each.call_id for each in found] == ["b4", "b3", "b2"]
    assert beyond(rows, lambda _, __: None) == []
    assert beyond(rows, lambda _, __: 100) == []
