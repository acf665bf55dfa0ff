"""Who of this gateway's calls waits for a model or runs on it, whether the store answers or not?

While the store answers, it decides. When it does not, this gateway goes on with a book of its own:
the slots that it holds stay, and it fills each replica up to its share, the bound divided by the
number of gateways that were last seen. Together they never exceed the bounds by more than what one
gateway held beyond its share when the store went, and one slot per gateway where there are more
gateways than slots. When the store is back it is told of every slot and every waiting call.

While nobody waits, a call takes over a slot that another one here has just left (`spares.py`): as
many run there as the store counts, and it hears of the change with the next batch.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from math import inf

from msgspec.structs import replace
from redis.exceptions import RedisError

from gateway.queue import exchange
from gateway.queue.book import Book, Bounds
from gateway.queue.drain import Drain
from gateway.queue.exchange import Answer, BatchLost, Exchange, Mode, Operation
from gateway.queue.known import Known
from gateway.queue.ledger import Ask, Backlog, Candidate, Cost, Slot
from gateway.queue.order import Waiting
from gateway.queue.spares import Spares, fits

ANSWER_S = 1.0  # a store that takes longer is away
EXPIRY_S = 5.0  # a gateway that is silent for so long is dead
LONGEST_WAIT_S = 86_400.0
LINGER_S = 0.02  # what nobody waits for goes with the next batch, or after this
SPARE_S = 0.2  # a slot that no call takes over goes back after this, at once where somebody waits


@dataclass(slots=True)
class Waiter:
    """A waiting call and the future that its slot is put into."""

    waiting: Waiting
    granted: asyncio.Future[Slot]


class Desk:
    """One model's calls of one gateway."""

    def __init__(
        self,
        model: str,
        line: Exchange,
        *,
        now: Callable[[], float],
        lease_ids: Callable[[], str],
        gateway: str,
        starvation_s: float,
        tells_spare: bool = True,
        spare_s: float = SPARE_S,
    ) -> None:
        self.model = model
        self.drain = Drain()
        self.gateways = 1
        self._line = line
        self._now = now
        self._lease_ids = lease_ids
        self._gateway = gateway
        self._starvation_s = starvation_s
        self._tells_spare = tells_spare
        self._spare_s = spare_s
        self._bounds = Bounds()
        self._waiters: dict[str, Waiter] = {}
        self._held: dict[str, Slot] = {}
        self._known = Known()
        self._spares = Spares()
        self._backlog: dict[int, Backlog] = {}
        self._seen: dict[str, tuple[int, float]] = {}
        self._operations: list[Operation] = []
        self._mode = Mode.RESTORE
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._sends_at = 0.0  # when the timer is due, by the loop's clock
        self._has_ended = False
        self._book: Book | None = None  # our own, while the store is away

    # what a ledger does

    async def acquire(self, ask: Ask, within_s: float) -> Slot:
        """Take a slot, else wait for one."""
        for candidate in self._bounds.untold(ask.candidates, ask.rank):
            self._tell(candidate, ask.rank)
        taken_over = self._take_over(ask)
        if taken_over is not None:
            return await self._with_the_others(taken_over)
        loop = asyncio.get_running_loop()
        granted: asyncio.Future[Slot] = loop.create_future()
        waiter = Waiter(Waiting(self._lease_ids(), ask, self._now(), 0), granted)
        self._ask(waiter)
        timer = loop.call_later(min(within_s, LONGEST_WAIT_S), _expire, granted)
        try:
            return await granted
        except BaseException:
            self._leave(waiter)
            raise
        finally:
            timer.cancel()

    def first_token(self, slot: Slot) -> None:
        """Free a slot's prefill tokens."""
        known = self._held.get(slot.lease_id)
        if known is None or not known.cost.prefill_tokens:
            return
        self._held[slot.lease_id] = replace(known, cost=replace(known.cost, prefill_tokens=0))
        if self._book is not None:
            self._settle(self._book.first_token(slot.lease_id, self._now()))
        else:
            self._known.change(slot.replica_id, Cost(0, 0, known.cost.prefill_tokens), -1)
            self._add(exchange.first_token(slot), urgent=bool(self._backlog))

    def release(self, slot: Slot) -> None:
        """Give a slot back."""
        held = self._held.pop(slot.lease_id, None)
        if held is None:
            return
        if self._book is not None:
            self._settle(self._book.release(slot.lease_id, self._now()))
            return
        if self._backlog:
            self._known.change(held.replica_id, held.cost, -1)
            self._add(exchange.release(held.lease_id, held.replica_id), urgent=True)
        else:
            self._known.set_aside(held.replica_id, held.cost)
            self._spares.put(held, asyncio.get_running_loop().time())
            self._linger(self._spare_s)

    def offer(self, candidates: tuple[Candidate, ...], rank: int | None) -> None:
        """Take in which replicas may be used, and up to what."""
        self._bounds.tell(candidates, rank)
        replicas = [each.replica_id for each in candidates]
        if self._book is not None:
            shares = tuple(self._share(each) for each in candidates)
            self._settle(self._book.offer(shares, rank, self._now()))
            return
        if rank is None:
            self._add(exchange.usable(replicas))
        for each in candidates:
            self._add(self._told(each, rank))
        self._add(exchange.hand_over(replicas), urgent=True)

    def outstanding(self, replica_id: str) -> Cost:
        """Give what runs on a replica, with those who have just asked for it before others."""
        if self._book is not None:
            return self._book.outstanding(replica_id)
        return self._known.of(replica_id)

    def backlog(self) -> Mapping[int, Backlog]:
        """Give who waits, by rank."""
        return self._backlog if self._book is None else self._book.backlog()

    @property
    def waiting(self) -> int:
        """How many calls wait."""
        return sum(each.calls for each in self.backlog().values())

    @property
    def held(self) -> int:
        """How many slots this gateway holds."""
        return len(self._held)

    @property
    def slots(self) -> tuple[Slot, ...]:
        """The slots that this gateway holds."""
        return tuple(self._held.values())

    @property
    def untold(self) -> bool:
        """Whether the store has not heard of all that was done here."""
        return bool(self._operations or self._spares or self._task)

    # what the ledger's own tasks do

    @property
    def away(self) -> bool:
        """Whether this desk does without the store."""
        return self._book is not None

    def sweep(self) -> None:
        """Show that this gateway lives, and tidy up after those that do not."""
        if self._book is None and not self._operations:
            self._add(exchange.sweep(self._silent()), urgent=True)

    def deliver(self, lease_id: str, replica_id: str) -> None:
        """Take a slot that another gateway's batch handed over."""
        if self._book is None and lease_id in self._waiters:
            self._grant(lease_id, replica_id)

    def hear(self, backlog: Mapping[int, Backlog]) -> None:
        """Take in that calls of another gateway have begun to wait: they get what is spare here."""
        if self._book is None and not self._backlog:
            self._backlog = dict(backlog)
            if self._task is not None:  # the answer that is under way may be older: have another
                self._operations.append(exchange.sweep({}))
            elif self._spares or self._operations:
                self._start()

    def come_back(self) -> None:
        """Give the store another try: it is there again."""
        if self._book is not None:
            self._book = None
            self._restore()

    async def quit(self) -> None:
        """Give everything back, if the store answers; calls that wait here are cancelled."""
        self._has_ended = True
        self._stop_timer()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        for waiter in self._waiters.values():
            waiter.granted.cancel()
        if self._book is None:
            try:
                await self._send(Mode.QUIT, [])
            except (BatchLost, RedisError, OSError, TimeoutError):
                pass  # the others find out by themselves

    # how

    def _ask(self, waiter: Waiter) -> None:
        waiting = waiter.waiting
        self._waiters[waiting.lease_id] = waiter
        if self._book is None:
            ask = waiting.ask
            if not self._backlog and ask.candidates:
                self._known.change(ask.candidates[0].replica_id, ask.cost)
            self._add(exchange.acquire(waiting), urgent=True)
            return
        shares = tuple(self._share(each) for each in waiting.ask.candidates)
        ask = replace(waiting.ask, candidates=shares)
        self._settle(self._book.acquire(waiting.lease_id, ask, self._now()))

    def _take_over(self, ask: Ask) -> Slot | None:
        """Give a call the slot that another one here has left on its first candidate.

        Only while nobody waits.
        """
        if self._backlog or not self._spares or not ask.candidates:
            return None
        candidate, cost = ask.candidates[0], ask.cost
        spare = self._spares.peek(candidate.replica_id, ask.rank)
        known, alone = self._known.of(candidate.replica_id), self.gateways == 1
        if spare is None or not fits(cost, spare, candidate, known, alone=alone):
            return None
        self._spares.take(spare)
        self._no_longer_spare(spare)
        slot = self._hold(ask, self._lease_ids(), candidate.replica_id, waited_s=0.0)
        self._known.change(slot.replica_id, cost)
        self._add(exchange.take_over(spare, slot.lease_id, ask))
        return slot

    async def _with_the_others(self, slot: Slot) -> Slot:
        """Go on once all calls that came in this turn of the loop have their slots.

        What many do one after the other is in the processor's caches: without this turn a call
        costs an eighth more where many come at once.
        """
        try:
            await asyncio.sleep(0)
        except BaseException:
            self.release(slot)
            raise
        return slot

    def _leave(self, waiter: Waiter) -> None:
        """End a wait, of which a slot may have come already."""
        lease_id = waiter.waiting.lease_id
        if self._waiters.pop(lease_id, None) is None:
            granted = waiter.granted
            if not granted.cancelled() and granted.exception() is None:
                self.release(granted.result())
        elif self._book is not None:
            self._settle(self._book.leave(lease_id, self._now()))
        else:
            self._add(exchange.leave(lease_id), urgent=True)

    def _grant(self, lease_id: str, replica_id: str) -> None:
        waiter = self._waiters.pop(lease_id)
        waiting = waiter.waiting
        waited_s = self._now() - waiting.since
        slot = self._hold(waiting.ask, lease_id, replica_id, waited_s=waited_s)
        if waiter.granted.done():
            self.release(slot)  # it has left
        else:
            waiter.granted.set_result(slot)

    def _hold(self, ask: Ask, lease_id: str, replica_id: str, *, waited_s: float) -> Slot:
        slot = self._held[lease_id] = Slot(
            call_id=ask.call_id,
            replica_id=replica_id,
            model=self.model,
            lease_id=lease_id,
            rank=ask.rank,
            cost=ask.cost,
            work_s=ask.work_s,
            granted_at=self._now(),
            waited_s=waited_s,
        )
        return slot

    def _settle(self, slots: Iterable[Slot]) -> None:
        for slot in slots:
            if slot.lease_id in self._waiters:
                self._grant(slot.lease_id, slot.replica_id)

    def _tell(self, candidate: Candidate, rank: int) -> None:
        self._bounds.tell_of(candidate, rank)
        if self._book is None:
            self._add(self._told(candidate, rank))

    def _told(self, candidate: Candidate, rank: int | None) -> Operation:
        return exchange.bounds(candidate, rank, tells_spare=self._tells_spare)

    def _share(self, candidate: Candidate) -> Candidate:
        """Give what is ours of a replica while nobody can ask the store."""
        among = max(1, self.gateways)
        kv, prefill = candidate.kv_tokens, candidate.prefill_tokens
        return Candidate(
            candidate.replica_id,
            max(min(1, candidate.sequences), candidate.sequences // among),
            None if kv is None else kv // among,
            None if prefill is None else prefill // among,
            candidate.spare // among,
        )

    def _silent(self) -> dict[str, int]:
        since = asyncio.get_running_loop().time() - EXPIRY_S
        return {g: number for g, (number, at) in self._seen.items() if at <= since}

    def _add(self, operation: Operation, *, urgent: bool = False) -> None:
        """Put an operation into the next batch, which goes when this turn of the loop is over."""
        self._operations.append(operation)
        if urgent:
            self._start()
        else:
            self._linger()

    def _linger(self, within_s: float = LINGER_S) -> None:
        """Have a batch sent within this time."""
        if self._task is not None or self._has_ended:
            return
        loop = asyncio.get_running_loop()
        at = loop.time() + within_s
        if self._timer is None or at < self._sends_at:
            self._stop_timer()
            self._timer, self._sends_at = loop.call_at(at, self._start), at

    def _start(self) -> None:
        self._stop_timer()
        if self._task is None and not self._has_ended:
            self._task = asyncio.create_task(self._exchange(), name=f"queue of {self.model}")

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def _exchange(self) -> None:
        try:
            self._give_back()
            while self._operations and self._book is None:
                if self._mode is Mode.RESTORE:
                    operations, self._operations = self._everything(), []
                else:
                    operations = self._operations[: exchange.MOST_OPERATIONS]
                    del self._operations[: exchange.MOST_OPERATIONS]
                mode, self._mode = self._mode, Mode.NEXT
                self._known.sent()
                try:
                    self._take(await self._send(mode, operations))
                except BatchLost:
                    self._restore()
                except (RedisError, OSError, TimeoutError):
                    self._go_on_alone()
                self._give_back()
        finally:
            self._task = None
            if self._spares:
                since_s = asyncio.get_running_loop().time() - self._spares.oldest
                self._linger(max(self._spare_s - since_s, 0.0))

    def _give_back(self) -> None:
        """Release what has been spare for long, and all of it where somebody waits."""
        now = asyncio.get_running_loop().time()
        for slot in self._spares.since_before(inf if self._backlog else now - self._spare_s):
            self._no_longer_spare(slot)
            self._operations.append(exchange.release(slot.lease_id, slot.replica_id))

    def _no_longer_spare(self, slot: Slot) -> None:
        self._known.set_aside(slot.replica_id, slot.cost, -1)
        self._known.change(slot.replica_id, slot.cost, -1)

    async def _send(self, mode: Mode, operations: list[Operation]) -> Answer:
        now, starvation_s = self._now(), self._starvation_s
        return await self._line.send(mode, operations, now=now, starvation_s=starvation_s)

    def _take(self, answer: Answer) -> None:
        self._backlog = answer.backlog
        self._known.answered(answer.loads, everything=bool(answer.gateways))
        self.drain.note(answer.released, answer.released_work_us, self._now())
        if answer.gateways:
            self._watch(answer.gateways)
        for lease_id, replica_id in answer.grants:
            if lease_id in self._waiters:
                self._grant(lease_id, replica_id)
            elif lease_id not in self._held and lease_id not in self._spares:
                # It left while the answer was under way.
                self._add(exchange.release(lease_id, replica_id), urgent=True)

    def _watch(self, gateways: dict[str, int]) -> None:
        """Note which gateways have done something since the last look, by our own clock."""
        at = asyncio.get_running_loop().time()
        before = self._seen
        self._seen = {
            name: before[name] if name in before and before[name][0] == number else (number, at)
            for name, number in gateways.items()
            if name != self._gateway
        }
        self.gateways = 1 + len(self._seen) - len(self._silent())

    def _restore(self) -> None:
        """Have the next batch tell everything afresh, under new leases for those who wait."""
        self._mode = Mode.RESTORE
        self._forget_spares()
        waiters = sorted(self._waiters.values(), key=lambda w: w.waiting.since)
        self._waiters = {}
        for waiter in waiters:
            waiter.waiting = replace(waiter.waiting, lease_id=self._lease_ids())
            self._waiters[waiter.waiting.lease_id] = waiter
        self._operations = [exchange.sweep({})]
        self._start()

    def _forget_spares(self) -> None:
        """What is told afresh has none."""
        self._spares.clear()
        self._known.forget_own()

    def _everything(self) -> list[Operation]:
        told = [self._told(each, rank) for each, rank in self._bounds.all()]
        slots = [exchange.held(slot) for slot in self._held.values()]
        waiting = [exchange.acquire(each.waiting) for each in self._waiters.values()]
        rest = [exchange.hand_over(self._bounds.replicas), exchange.sweep({})]
        return [*told, *slots, *waiting, *rest]

    def _go_on_alone(self) -> None:
        """Do without the store: our slots stay, and those who wait take from our share."""
        book = self._book = Book(self.model, starvation_s=self._starvation_s)
        for each, rank in self._bounds.all():
            book.bounds.tell_of(self._share(each), rank)
        self._operations = []
        self._forget_spares()
        for slot in self._held.values():
            book.adopt(slot)
        for waiter in sorted(self._waiters.values(), key=lambda w: w.waiting.since):
            self._ask(waiter)


def _expire(granted: asyncio.Future[Slot]) -> None:
    if not granted.done():
        granted.set_exception(TimeoutError())
