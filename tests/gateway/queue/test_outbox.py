"""What is done here goes to the store in batches, one at a time."""

import asyncio
from collections.abc import Iterable

from redis.exceptions import ConnectionError as StoreAway

from gateway.queue import operations
from gateway.queue.operations import MOST_OPERATIONS, Answer, BatchLost, Mode, Operation
from gateway.queue.outbox import Outbox
from tests.waiting import eventually

ALL = operations.usable(["all"])
AGAIN = operations.usable(["again"])


class Store:
    """Takes batches in, and answers when it is let."""

    def __init__(self) -> None:
        self.batches: list[tuple[Mode, list[Operation]]] = []
        self.answers: list[Exception | None] = []
        self.lets = asyncio.Event()
        self.lets.set()
        self.outbox = Outbox("queue", self)
        self.heard: list[str] = []
        self.spare: list[Operation] = []
        self.spare_soon: list[Operation] = []

    async def send(self, mode: Mode, operations: list[Operation]) -> Answer:
        self.batches.append((mode, operations))
        await self.lets.wait()
        error = self.answers.pop(0) if self.answers else None
        if error is not None:
            raise error
        return Answer(0, 0, {}, {})

    def overdue(self) -> Iterable[Operation]:
        spare, self.spare = self.spare, []
        return spare

    def everything(self) -> list[Operation]:
        return [ALL]

    def sent(self) -> None:
        self.heard.append("sent")

    def answered(self, answer: Answer) -> None:
        self.heard.append("answered")

    def lost(self) -> None:
        self.heard.append("lost")
        self.outbox.begin_afresh(AGAIN)

    def unanswered(self) -> None:
        self.heard.append("unanswered")
        self.outbox.clear()

    def due_in_s(self) -> float | None:
        if not self.spare_soon:
            return None
        self.spare, self.spare_soon = self.spare_soon, []
        return 0.0

    async def idle(self) -> None:
        await eventually(lambda: not self.outbox and not self.outbox.is_under_way, every_s=0.001)


async def test_the_first_batch_tells_everything_and_the_next_what_was_done() -> None:
    store = Store()
    store.outbox.add(operations.leave("1"), urgent=True)
    await store.idle()
    store.outbox.add(operations.leave("2"), urgent=True)
    store.outbox.add(operations.leave("3"))
    await store.idle()
    both = [operations.leave("2"), operations.leave("3")]
    assert store.batches == [(Mode.RESTORE, [ALL]), (Mode.NEXT, both)]
    assert store.heard == ["sent", "answered"] * 2


async def test_one_batch_is_under_way_and_no_batch_is_too_large() -> None:
    store = Store()
    store.lets.clear()
    store.outbox.add(operations.leave("0"), urgent=True)
    await eventually(lambda: len(store.batches) == 1)
    for number in range(MOST_OPERATIONS + 2):
        store.outbox.add(operations.leave(f"{number}"), urgent=True)
    await asyncio.sleep(0)
    assert len(store.batches) == 1
    store.lets.set()
    await store.idle()
    assert [len(operations) for _, operations in store.batches] == [1, MOST_OPERATIONS, 2]


async def test_what_is_not_urgent_goes_without_being_pushed() -> None:
    store = Store()
    store.outbox.add(operations.leave("1"))
    assert not store.outbox.is_under_way
    await store.idle()
    assert len(store.batches) == 1


async def test_what_was_kept_goes_with_a_batch_or_when_it_is_due() -> None:
    store = Store()
    store.outbox.add(operations.leave("1"), urgent=True)
    await store.idle()
    store.spare = [operations.release("1", "a")]
    store.spare_soon = [operations.release("2", "a")]
    store.outbox.start()
    await eventually(lambda: len(store.batches) == 3, every_s=0.001)
    assert [operations for _, operations in store.batches[1:]] == [
        [operations.release("1", "a")],
        [operations.release("2", "a")],
    ]


async def test_a_store_that_has_forgotten_is_told_afresh() -> None:
    store = Store()
    store.answers = [None, BatchLost()]
    store.outbox.add(operations.leave("1"), urgent=True)
    await store.idle()
    store.outbox.add(operations.leave("2"), urgent=True)
    await store.idle()
    assert store.heard[2:] == ["sent", "lost", "sent", "answered"]
    assert store.batches[-1] == (Mode.RESTORE, [ALL])


async def test_nothing_more_is_sent_to_a_store_that_is_away_or_after_the_end() -> None:
    store = Store()
    store.answers = [StoreAway()]
    store.outbox.add(operations.leave("1"), urgent=True)
    await store.idle()
    assert store.heard == ["sent", "unanswered"]
    store.lets.clear()
    store.outbox.add(operations.leave("2"), urgent=True)
    await eventually(lambda: len(store.batches) == 2)
    await store.outbox.quit()
    store.outbox.add(operations.leave("3"), urgent=True)
    store.outbox.add(operations.leave("4"))
    assert not store.outbox.is_under_way
    assert len(store.batches) == 2
