"""The script in the store and the book in Python give every slot to the same call."""

import asyncio
from dataclasses import dataclass, field

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis

from backends.store import connect
from gateway.line import Line
from gateway.queue import operations
from gateway.queue.book import Book
from gateway.queue.ledger import Ask, Candidate, Cost
from gateway.queue.operations import PREFIX, Batches, Mode, Operation
from gateway.queue.order import Waiting
from gateway.scripts import Script
from tests.gateway.queue.asks import MODEL

REPLICAS = ("a", "b", "c")
STARVATION_S = 3.0

bound = st.builds(
    Candidate,
    st.sampled_from(REPLICAS),
    st.sampled_from([0, 1, 1, 2, 3]),
    st.sampled_from([None, None, 25]),
    st.sampled_from([None, None, 12]),
)
asks = st.builds(
    Ask,
    call_id=st.just("call"),
    model=st.just(MODEL),
    candidates=st.lists(bound, min_size=1, max_size=3, unique_by=lambda each: each.replica_id).map(
        tuple
    ),
    rank=st.integers(0, 2),
    first_token_by=st.floats(1, 9, width=16) | st.just(float("inf")),
    tenant=st.sampled_from(["x", "y", "z z"]),
    weight=st.sampled_from([0.5, 1.0, 3.0]),
    work_s=st.sampled_from([0.1, 0.25, 1 / 3]),
    cost=st.builds(Cost, st.integers(1, 2), st.integers(0, 20), st.integers(0, 10)),
    excluded=st.frozensets(st.sampled_from(REPLICAS), max_size=1),
)
offers = st.tuples(
    st.just("offer"), st.lists(bound, max_size=3, unique_by=lambda each: each.replica_id)
)
asking = st.tuples(st.just("ask"), asks)
ending = st.tuples(st.sampled_from(["release", "first token", "leave"]), st.integers(0, 60))
releasing = st.tuples(st.just("release held"), st.integers(0, 5))
# Calls come in a burst, so that many wait; then slots come free one by one.
steps = st.tuples(
    st.lists(asking, min_size=5, max_size=25),
    st.lists(st.one_of(releasing, releasing, releasing, asking, ending, offers), min_size=20),
).map(lambda parts: [*parts[0], *parts[1]])


@dataclass
class Both:
    """The same calls in a book and in the store, of two gateways that see the same bounds."""

    redis: Redis
    book: Book = field(default_factory=lambda: Book(MODEL, starvation_s=STARVATION_S))
    now: float = 1000.0
    leases: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.line = Line(self.redis, answer_s=5.0)

    async def begin(self) -> None:
        """Introduce both gateways."""
        script = Script("gateway.queue", "ledger.lua")
        self.lines = [Batches(self.line, script, name, MODEL) for name in ("g0", "g1")]
        for line in self.lines:
            await self._send(line, [], Mode.RESTORE)

    async def ask(self, ask: Ask) -> None:
        """Let a call ask."""
        lease_id = f"g{len(self.leases) % 2}:{len(self.leases)}"
        self.leases.append(lease_id)
        told = [
            operations.bounds(each, ask.rank)
            for each in ask.candidates
            if self.book.bounds.of(each.replica_id, ask.rank) != each
        ]
        self.book.acquire(lease_id, ask, self.now)
        line = self._line(lease_id)
        for each in self.lines:
            if each is not line and told:
                await self._send(each, told)
        await self._send(line, [*told, operations.acquire(Waiting(lease_id, ask, 0.0, 0))])

    async def offer(self, candidates: tuple[Candidate, ...]) -> None:
        """Tell both gateways of the replicas."""
        names = [each.replica_id for each in candidates]
        told = [operations.usable(names), *(operations.bounds(each, None) for each in candidates)]
        for line in self.lines:
            await self._send(line, told)
        self.book.offer(candidates, None, self.now)
        await self._send(self.lines[0], [operations.hand_over(names)])

    async def end(self, what: str, pick: int) -> None:
        """Release, note a first token, or leave."""
        if not self.leases:
            return
        lease_id = self.leases[pick % len(self.leases)]
        if what == "release held" and self.book.held:
            lease_id = self.book.held[pick % len(self.book.held)].lease_id
        line = self._line(lease_id)
        slot = next((s for s in self.book.held if s.lease_id == lease_id), None)
        if what == "leave" and slot is None:
            self.book.leave(lease_id, self.now)
            await self._send(line, [operations.leave(lease_id)])
        elif what == "first token" and slot is not None:
            self.book.first_token(lease_id, self.now)
            await self._send(line, [operations.first_token(slot)])
        elif slot is not None:
            self.book.release(lease_id, self.now)
            await self._send(line, [operations.release(lease_id, slot.replica_id)])

    async def agree(self) -> None:
        """Compare who runs where, and who waits."""
        held = {
            (str(lease, "utf-8") if isinstance(lease, bytes) else lease, replica)
            for replica in REPLICAS
            for lease in await self.redis.hkeys(f"{PREFIX}{{{MODEL}}}:on:{replica}")
        }
        assert held == {(slot.lease_id, slot.replica_id) for slot in self.book.held}
        assert self.answer.backlog == self.book.backlog()
        for replica, cost in self.answer.loads.items():
            assert cost == self.book.outstanding(replica)

    def _line(self, lease_id: str) -> Batches:
        return self.lines[int(lease_id[1])]

    async def _send(
        self, line: Batches, operations: list[Operation], mode: Mode = Mode.NEXT
    ) -> None:
        self.answer = await line.send(mode, operations, now=self.now, starvation_s=STARVATION_S)


@given(steps=steps)
@settings(
    max_examples=20,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_the_store_and_the_book_agree(redis_url: str, steps: list[tuple[str, object]]) -> None:
    asyncio.run(_play(redis_url, steps))


async def _play(redis_url: str, steps: list[tuple[str, object]]) -> None:
    redis = connect(redis_url)
    await redis.flushdb()
    both = Both(redis)
    try:
        await _compare(both, steps)
    finally:
        both.line.close()
        await asyncio.sleep(0)  # the socket closes in the loop's next turn
        await redis.aclose()


async def _compare(both: Both, steps: list[tuple[str, object]]) -> None:
    await both.begin()
    for what, detail in steps:
        both.now += 0.75
        if isinstance(detail, Ask):
            await both.ask(detail)
        elif isinstance(detail, int):
            await both.end(what, detail)
        else:
            assert isinstance(detail, list)
            await both.offer(tuple(detail))
        await both.agree()
