"""What may run here while the store decides, and what does it hear of that?

While nobody waits, a call takes over a slot that another one here has just left (`spares.py`): as
many run there as the store counts, and it hears of the change with the next batch.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from math import inf
from typing import Protocol

from redis.exceptions import RedisError

from gateway.queue import operations
from gateway.queue.drain import Drain
from gateway.queue.known import Known
from gateway.queue.ledger import Ask, Backlog, Candidate, Cost, Slot
from gateway.queue.operations import Answer, Batches, BatchLost, Mode, Operation
from gateway.queue.order import Waiting
from gateway.queue.outbox import Outbox
from gateway.queue.peers import Peers
from gateway.queue.spares import Spares, fits

SPARE_S = 0.2  # a slot that no call takes over goes back after this, at once where somebody waits

_log = logging.getLogger(__name__)


class Calls(Protocol):
    """The calls whose slots the store grants."""

    def grant(self, lease_id: str, replica_id: str) -> bool:
        """Give a call its slot; False where the lease is nobody's."""
        ...

    def everything(self) -> list[Operation]:
        """Give all that the store should know of bounds, slots and waiting calls."""
        ...

    def rename(self) -> None:
        """Have those who wait do so under new leases: the store may know the old ones."""
        ...

    def go_on_alone(self) -> None:
        """The store does not answer: do without it."""
        ...


class Shared:
    """One model's slots as the store counts them, and this gateway's words to it."""

    def __init__(
        self,
        model: str,
        batches: Batches,
        calls: Calls,
        *,
        peers: Peers,
        drain: Drain,
        now: Callable[[], float],
        starvation_s: float,
        tells_spare: bool,
        spare_s: float,
    ) -> None:
        self._batches = batches
        self._calls = calls
        self._peers = peers
        self._drain = drain
        self._now = now
        self._starvation_s = starvation_s
        self._tells_spare = tells_spare
        self._spare_s = spare_s
        self._known = Known()
        self._spares = Spares()
        self._backlog: Mapping[int, Backlog] = {}
        self._outbox = Outbox(f"queue of {model}", self)

    def tell(self, candidate: Candidate, rank: int | None) -> None:
        """Tell of the bounds of a class on a replica."""
        self._outbox.add(self.bounds(candidate, rank))

    def offer(self, candidates: tuple[Candidate, ...], rank: int | None) -> None:
        """Tell which replicas may be used, and up to what; those who wait take what is free."""
        replicas = [each.replica_id for each in candidates]
        if rank is None:
            self._outbox.add(operations.usable(replicas))
        for each in candidates:
            self._outbox.add(self.bounds(each, rank))
        self._outbox.add(operations.hand_over(replicas), urgent=True)

    def take_over(self, ask: Ask, lease_id: str) -> bool:
        """Let a call run in the slot that another one here has left on its first candidate.

        Only while nobody waits. False: there is none that it fits.
        """
        if self._backlog or not self._spares or not ask.candidates:
            return False
        candidate, cost = ask.candidates[0], ask.cost
        replica_id = candidate.replica_id
        spare = self._spares.peek(replica_id, ask.rank)
        if spare is None:
            return False
        known, alone = self._known.of(replica_id), self._peers.count == 1
        if not fits(cost, spare, candidate, known, alone=alone):
            return False
        self._spares.take(spare)
        self._known.pass_on(replica_id, spare.cost, cost)
        self._outbox.add(operations.take_over(spare, lease_id, ask))
        return True

    def ask(self, waiting: Waiting) -> None:
        """Ask for a slot."""
        ask = waiting.ask
        if not self._backlog and ask.candidates:
            self._known.change(ask.candidates[0].replica_id, ask.cost)
        self._outbox.add(operations.acquire(waiting), urgent=True)

    def leave(self, lease_id: str) -> None:
        """End a wait."""
        self._outbox.add(operations.leave(lease_id), urgent=True)

    def first_token(self, slot: Slot) -> None:
        """Free a slot's prefill tokens."""
        self._known.change(slot.replica_id, Cost(0, 0, slot.cost.prefill_tokens), -1)
        self._outbox.add(operations.first_token(slot), urgent=bool(self._backlog))

    def release(self, slot: Slot) -> None:
        """Give a slot back, or keep it for the next call for a moment."""
        if self._backlog:
            self._known.change(slot.replica_id, slot.cost, -1)
            self._outbox.add(operations.release(slot.lease_id, slot.replica_id), urgent=True)
        else:
            self._known.set_aside(slot.replica_id, slot.cost)
            self._spares.put(slot, _time())
            self._outbox.linger(self._spare_s)

    def outstanding(self, replica_id: str) -> Cost:
        """Give what runs on a replica, with those who have just asked for it before others."""
        return self._known.of(replica_id)

    def backlog(self) -> Mapping[int, Backlog]:
        """Give who waits, by rank."""
        return self._backlog

    def bounds(self, candidate: Candidate, rank: int | None) -> Operation:
        """Word the bounds of a class on a replica."""
        return operations.bounds(candidate, rank, tells_spare=self._tells_spare)

    @property
    def untold(self) -> bool:
        """Whether the store has not heard of all that was done here."""
        return bool(self._outbox or self._spares or self._outbox.is_under_way)

    def sweep(self) -> None:
        """Show that this gateway lives, and tidy up after those that do not."""
        if not self._outbox:
            self._outbox.add(operations.sweep(self._peers.silent(_time())), urgent=True)

    def hear(self, backlog: Mapping[int, Backlog]) -> None:
        """Take in that calls of another gateway have begun to wait: they get what is spare here."""
        if self._backlog:
            return
        self._backlog = backlog
        if self._outbox.is_under_way:  # the answer on its way may be older: have another
            self._outbox.add(operations.sweep({}))
        elif self._spares or self._outbox:
            self._outbox.start()

    def restore(self) -> None:
        """Have the next batch tell everything afresh, under new leases for those who wait."""
        self._calls.rename()
        self._forget_spares()
        self._outbox.begin_afresh(operations.sweep({}))

    def abandon(self) -> None:
        """Say no more: the store does not answer."""
        self._outbox.clear()
        self._forget_spares()

    async def quit(self, *, tells: bool) -> None:
        """Say no more, but for the last word, by which the store forgets this gateway."""
        await self._outbox.quit()
        if tells:
            try:
                await self.send(Mode.QUIT, [])
            except (BatchLost, RedisError, OSError, TimeoutError) as error:
                # The others miss its beat, and take back what it held.
                _log.info("the last word did not reach the store: %s", type(error).__name__)

    # see outbox.Correspondent

    def send(self, mode: Mode, operations: list[Operation]) -> Awaitable[Answer]:
        """Have a batch done."""
        now, starvation_s = self._now(), self._starvation_s
        return self._batches.send(mode, operations, now=now, starvation_s=starvation_s)

    def overdue(self) -> Iterable[Operation]:
        """Release what has been spare for long, and all of it where somebody waits."""
        slots = self._spares.since_before(inf if self._backlog else _time() - self._spare_s)
        for slot in slots:
            self._known.set_aside(slot.replica_id, slot.cost, -1)
            self._known.change(slot.replica_id, slot.cost, -1)
        return [operations.release(slot.lease_id, slot.replica_id) for slot in slots]

    def everything(self) -> list[Operation]:
        """Give all that the store should know."""
        return self._calls.everything()

    def sent(self) -> None:
        """A batch is on its way."""
        self._known.sent()

    def answered(self, answer: Answer) -> None:
        """Take in what the store says."""
        self._backlog = answer.backlog
        self._known.answered(answer.loads, everything=bool(answer.gateways))
        self._drain.note(answer.released, answer.released_work_us, self._now())
        if answer.gateways:
            self._peers.seen(answer.gateways, _time())
        for lease_id, replica_id in answer.grants:
            if not self._calls.grant(lease_id, replica_id) and lease_id not in self._spares:
                # It left while the answer was under way.
                self._outbox.add(operations.release(lease_id, replica_id), urgent=True)

    def lost(self) -> None:
        """The store does not know what it was told before."""
        self.restore()

    def unanswered(self) -> None:
        """The store does not answer."""
        self._calls.go_on_alone()

    def due_in_s(self) -> float | None:
        """Say when what is spare will have been so for long."""
        if not self._spares:
            return None
        return max(self._spare_s - (_time() - self._spares.oldest), 0.0)

    def _forget_spares(self) -> None:
        """What is told afresh has none."""
        self._spares.clear()
        self._known.forget_own()


def _time() -> float:
    return asyncio.get_running_loop().time()
