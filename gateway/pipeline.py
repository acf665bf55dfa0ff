"""In which order is a call served? Read this first.

key -> class -> limits -> candidates -> admission -> slot -> relay -> receipt. Stages know nothing
of each other; a call that fails before its first byte may go round again on another replica.
"""

import asyncio
from dataclasses import dataclass

from backends.fleet import Replica
from backends.registry import Registry
from gateway.accounting import Account, Accounting
from gateway.admission import Outlook, Reason, Reject, decide, retry_after
from gateway.call import Call, Receipt
from gateway.engine_requests import engine_headers
from gateway.errors import GatewayError, NoReplica, QueueFull
from gateway.explain import Record
from gateway.explain_store import Explanations
from gateway.hedging import MOST_LOAD, Hedger
from gateway.limits import Limiter
from gateway.plans import Placed, Plan
from gateway.queue.ledger import Ledger, Slot
from gateway.relay import AttemptFailed, Relay
from gateway.retry_budget import RetryBudget
from gateway.sink import Sink
from gateway.steering import Steering


@dataclass(frozen=True, slots=True)
class Bounds:
    """What an operator allows: attempts per call, least Retry-After, who sees short records."""

    attempts: int
    retry_after_s: float
    headers_for: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Refusal:
    """A call that its plan cannot keep, and when there should be room."""

    plan: Plan
    outlook: Outlook
    reason: Reason
    retry_after_s: float


class Pipeline:
    """Serves calls on the fleet."""

    def __init__(
        self,
        *,
        registry: Registry,
        ledger: Ledger,
        relay: Relay,
        accounting: Accounting,
        steering: Steering,
        explanations: Explanations,
        retries: RetryBudget,
        bounds: Bounds,
        limits: Limiter,
    ) -> None:
        self._registry = registry
        self._ledger = ledger
        self._relay = relay
        self._accounting = accounting
        self._steering = steering
        self._explanations = explanations
        self._retries = retries
        self._hedger = Hedger(retries)
        self._bounds = bounds
        self._limits = limits

    async def serve(self, call: Call, sink: Sink) -> Receipt:
        """Serve a call and give its receipt.

        Raises a GatewayError that the caller has not been told of, unless it is StreamBroken,
        which was told in the stream. A cancelled call leaves neither a slot nor engine work.
        """
        receipt = Receipt(call)
        with (
            self._explanations.record(call, receipt) as record,
            self._accounting.account(receipt) as account,
        ):
            claim = None
            if self._limits.concern(call.principal):
                claim = await self._limits.reserve(call, lambda: self._steering.tokens(call))
            try:
                if claim is not None:
                    call.limit_headers = claim.headers
                await self._attempt_until_served(call, sink, account, record)
            finally:
                self._limits.settle(claim, receipt)
        return receipt

    async def _attempt_until_served(
        self, call: Call, sink: Sink, account: Account, record: Record
    ) -> None:
        tried: frozenset[str] = frozenset()
        last: GatewayError | None = None
        plan = self._steering.plan(call)
        self._retries.call()
        for attempt in range(self._bounds.attempts):
            if attempt and not self._retries.spend():
                record.happened("not tried again: too many calls are being tried again")
                break
            placed = await self._place(plan, tried, last, account.receipt, record)
            plan = placed.plan
            try:
                if plan.klass.hedges and call.stream:
                    await self._hedge(placed, tried, sink, account, record)
                else:
                    await self._forward(placed, sink, account, record, account.receipt)
                return
            except AttemptFailed as failed:
                last = failed.error
                record.happened(f"{placed.slot.replica_id} failed: {last.code}: {last.message}")
                if not failed.again:
                    raise last from failed
                if failed.blames_replica:
                    tried |= {placed.slot.replica_id}
            finally:
                self._ledger.release(placed.slot)
        raise last or NoReplica(call.model)

    async def _hedge(
        self,
        placed: Placed,
        tried: frozenset[str],
        sink: Sink,
        account: Account,
        record: Record,
    ) -> None:
        """Let one replica answer, or another one where it is late to begin."""
        plan, call = placed.plan, placed.plan.call

        async def first(side: Sink, receipt: Receipt) -> None:
            await self._forward(placed, side, account, record, receipt)

        async def second(side: Sink, receipt: Receipt) -> None:
            others = tried | {placed.slot.replica_id}
            other = await self._slot(plan, others, None, receipt, record)
            if isinstance(other, Refusal):
                raise self._told(other)
            try:
                await self._forward(other, side, account, record, receipt)
            finally:
                self._ledger.release(other.slot)

        await self._hedger.run(
            (call.model, plan.klass.name), sink, account.receipt, first, second,
            may_hedge=lambda: (
                not self._ledger.waiting(call.model) and self._steering.load(plan) <= MOST_LOAD
            ),
            happened=record.happened,
        )  # fmt: skip

    async def _forward(
        self, placed: Placed, sink: Sink, account: Account, record: Record, receipt: Receipt
    ) -> None:
        """Let one replica answer."""
        call = placed.plan.call
        replica = self._replica(placed.slot)
        receipt.late = placed.is_late
        if receipt.late or call.principal.tenant in self._bounds.headers_for:
            call.notes[:] = record.short(call.principal.tenant in self._bounds.headers_for)
        with self._steering.awaiting(placed, receipt), account.attempt(replica) as trace_headers:
            receipt.attempts, receipt.replica_id = account.receipt.attempts, replica.id
            headers = engine_headers(replica, *trace_headers)
            await self._relay.forward(call, replica, sink, receipt, headers)

    async def _place(
        self,
        plan: Plan,
        tried: frozenset[str],
        last: GatewayError | None,
        receipt: Receipt,
        record: Record,
    ) -> Placed:
        """Get a slot under the call's own class, else as one that is demoted or late."""
        found = await self._slot(plan, tried, last, receipt, record)
        while isinstance(found, Refusal):
            lower = self._steering.lower(found.plan, found.reason)
            if lower is None:
                raise self._told(found)
            name = found.plan.klass.name
            how = "served late" if lower.missed else f"demoted from {name} to {lower.klass.name}"
            record.happened(f"{how}: {found.reason}")
            found = await self._slot(lower, tried, last, receipt, record)
        return found

    def _told(self, refusal: Refusal) -> QueueFull:
        """Promise a refused call a time to come back."""
        plan, outlook = refusal.plan, refusal.outlook
        again_s = self._steering.outlooks.return_after(plan, outlook, refusal.retry_after_s)
        return QueueFull(again_s, code=refusal.reason)

    async def _slot(
        self,
        plan: Plan,
        tried: frozenset[str],
        last: GatewayError | None,
        receipt: Receipt,
        record: Record,
    ) -> Placed | Refusal:
        """Get a slot by a plan, or say why it cannot be kept."""
        steering, call, least_s = self._steering, plan.call, self._bounds.retry_after_s
        choice, question = steering.choose(plan, tried)
        if not choice.candidates:
            raise last or NoReplica(call.model)
        outlook = steering.outlooks.of(plan, choice, question)
        decision = decide(outlook, least_retry_s=least_s)
        record.decided(question.now, plan, choice, outlook, decision)
        if isinstance(decision, Reject):
            return Refusal(plan, outlook, decision.reason, decision.retry_after_s)
        loop = asyncio.get_running_loop()
        within_s = min(decision.at_most_s, call.deadline - loop.time())
        reason = Reason.LATE_SLOT
        try:
            with steering.outlooks.waiting(plan):
                ask = steering.ask(plan, choice, tried)
                slot = await self._ledger.acquire(ask, within_s=within_s)
            placed = steering.placed(plan, slot, question)
            record.placed(placed)
            if steering.takes(placed, outlook):
                return placed
            self._ledger.release(slot)
        except TimeoutError:
            reason = Reason.DEADLINE
        finally:
            receipt.queued_s = loop.time() - call.arrived
        record.happened(f"told after {receipt.queued_s * 1e3:.0f} ms: {reason}")
        return Refusal(plan, outlook, reason, retry_after(outlook, least_retry_s=least_s))

    def _replica(self, slot: Slot) -> Replica:
        standing = self._registry.fleet.standing(slot.replica_id)
        if standing is None:
            raise AttemptFailed(NoReplica(slot.model), again=True)
        return standing.replica
