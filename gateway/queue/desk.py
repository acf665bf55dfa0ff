"""Who of this gateway's calls waits for a model or runs on it, whether the store answers or not?

While the store answers, it decides (`shared.py`). When it does not, this gateway goes on with a
book of its own (`alone.py`): the slots that it holds stay, and it fills each replica up to its
share. When the store is back it is told of every slot and every waiting call.
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from msgspec.structs import replace

from gateway.queue import operations
from gateway.queue.alone import Alone
from gateway.queue.bounds import Bounds
from gateway.queue.decider import Decider
from gateway.queue.drain import Drain
from gateway.queue.ledger import Ask, Backlog, Candidate, Cost, Slot
from gateway.queue.operations import Batches, Operation
from gateway.queue.order import Waiting
from gateway.queue.peers import Peers
from gateway.queue.shared import SPARE_S, Shared

LONGEST_WAIT_S = 86_400.0


@dataclass(slots=True)
class Waiter:
    """A waiting call and the future that its slot is put into."""

    waiting: Waiting
    granted: asyncio.Future[Slot]


class Desk:
    """One model's calls of one gateway; those that `Shared` speaks for."""

    def __init__(
        self,
        model: str,
        batches: Batches,
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
        self.peers = Peers(gateway)
        self._now = now
        self._lease_ids = lease_ids
        self._bounds = Bounds()
        self._waiters: dict[str, Waiter] = {}
        self._held: dict[str, Slot] = {}
        self._alone = partial(Alone, model, now=now, starvation_s=starvation_s, grant=self.grant)
        self._shared = Shared(
            model,
            batches,
            self,
            peers=self.peers,
            drain=self.drain,
            now=now,
            starvation_s=starvation_s,
            tells_spare=tells_spare,
            spare_s=spare_s,
        )
        self._decider: Decider = self._shared

    async def acquire(self, ask: Ask, within_s: float) -> Slot:
        """Take a slot, else wait for one."""
        for candidate in self._bounds.untold(ask.candidates, ask.rank):
            self._bounds.tell_of(candidate, ask.rank)
            self._decider.tell(candidate, ask.rank)
        lease_id = self._lease_ids()
        if self._decider.take_over(ask, lease_id):
            slot = self._hold(ask, lease_id, ask.candidates[0].replica_id, waited_s=0.0)
            return await self._with_the_others(slot)
        loop = asyncio.get_running_loop()
        granted: asyncio.Future[Slot] = loop.create_future()
        waiter = Waiter(Waiting(lease_id, ask, self._now(), 0), granted)
        self._waiters[lease_id] = waiter
        self._decider.ask(waiter.waiting)
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
        held = self._held.get(slot.lease_id)
        if held is None or not held.cost.prefill_tokens:
            return
        self._held[slot.lease_id] = replace(held, cost=replace(held.cost, prefill_tokens=0))
        self._decider.first_token(held)

    def release(self, slot: Slot) -> None:
        """Give a slot back."""
        held = self._held.pop(slot.lease_id, None)
        if held is not None:
            self._decider.release(held)

    def offer(self, candidates: tuple[Candidate, ...], rank: int | None) -> None:
        """Take in which replicas may be used, and up to what."""
        self._bounds.tell(candidates, rank)
        self._decider.offer(candidates, rank)

    def outstanding(self, replica_id: str) -> Cost:
        """Give what runs on a replica."""
        return self._decider.outstanding(replica_id)

    def backlog(self) -> Mapping[int, Backlog]:
        """Give who waits, by rank."""
        return self._decider.backlog()

    @property
    def slots(self) -> tuple[Slot, ...]:
        """The slots that this gateway holds."""
        return tuple(self._held.values())

    @property
    def away(self) -> bool:
        """Whether this desk does without the store."""
        return self._decider is not self._shared

    @property
    def untold(self) -> bool:
        """Whether the store has not heard of all that was done here."""
        return self._shared.untold

    def sweep(self) -> None:
        """Show that this gateway lives, and tidy up after those that do not."""
        if not self.away:
            self._shared.sweep()

    def deliver(self, lease_id: str, replica_id: str) -> None:
        """Take a slot that another gateway's batch handed over."""
        if not self.away:
            self.grant(lease_id, replica_id)

    def hear(self, backlog: Mapping[int, Backlog]) -> None:
        """Take in that calls of another gateway have begun to wait."""
        if not self.away:
            self._shared.hear(backlog)

    def come_back(self) -> None:
        """Give the store another try: it is there again."""
        if self.away:
            self._decider = self._shared
            self._shared.restore()

    async def quit(self) -> None:
        """Give everything back, if the store answers; calls that wait here are cancelled."""
        for waiter in self._waiters.values():
            waiter.granted.cancel()
        await self._shared.quit(tells=not self.away)

    def grant(self, lease_id: str, replica_id: str) -> bool:
        """Give a call its slot; False where the lease is nobody's."""
        waiter = self._waiters.pop(lease_id, None)
        if waiter is None:
            return lease_id in self._held
        waiting = waiter.waiting
        waited_s = self._now() - waiting.since
        slot = self._hold(waiting.ask, lease_id, replica_id, waited_s=waited_s)
        if waiter.granted.done():
            self.release(slot)  # it has left
        else:
            waiter.granted.set_result(slot)
        return True

    def everything(self) -> list[Operation]:
        """Give all that the store should know of bounds, slots and waiting calls."""
        told = [self._shared.bounds(each, rank) for each, rank in self._bounds.all()]
        slots = [operations.held(slot) for slot in self._held.values()]
        waiting = [operations.acquire(each.waiting) for each in self._waiters.values()]
        rest = [operations.hand_over(self._bounds.replicas), operations.sweep({})]
        return [*told, *slots, *waiting, *rest]

    def rename(self) -> None:
        """Have those who wait do so under new leases."""
        waiters, self._waiters = self._in_order(), {}
        for waiter in waiters:
            waiter.waiting = replace(waiter.waiting, lease_id=self._lease_ids())
            self._waiters[waiter.waiting.lease_id] = waiter

    def go_on_alone(self) -> None:
        """Do without the store: our slots stay, and those who wait take from our share."""
        self._shared.abandon()
        alone = self._decider = self._alone(self.peers.count)
        for each, rank in self._bounds.all():
            alone.tell(each, rank)
        for slot in self._held.values():
            alone.adopt(slot)
        for waiter in self._in_order():
            alone.ask(waiter.waiting)

    def _in_order(self) -> list[Waiter]:
        return sorted(self._waiters.values(), key=lambda waiter: waiter.waiting.since)

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
        else:
            self._decider.leave(lease_id)

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


def _expire(granted: asyncio.Future[Slot]) -> None:
    if not granted.done():
        granted.set_exception(TimeoutError())
