"""In which order is a call served? Read this first.

key -> class -> candidates -> admission -> slot -> relay -> receipt. Stages know nothing of each
other; a call that fails before its first byte may go round again on another replica.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

from backends.fleet import Replica
from backends.registry import Registry
from backends.slo import Class
from gateway.accounting import Account, Accounting
from gateway.admission import PoolState, Reject, decide, retry_after
from gateway.call import Call, Receipt
from gateway.errors import GatewayError, NoReplica, QueueFull
from gateway.queue.ledger import Ask, Ledger, Slot
from gateway.relay import AttemptFailed, Relay, engine_headers
from gateway.routing.least_outstanding import candidates
from gateway.sink import Sink


@dataclass(frozen=True, slots=True)
class Bounds:
    """What an operator allows: waiting calls per model, attempts per call, least Retry-After."""

    max_waiting: int
    attempts: int
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
        classes: Mapping[str, Class],
        bounds: Bounds,
    ) -> None:
        self._registry = registry
        self._ledger = ledger
        self._relay = relay
        self._accounting = accounting
        self._classes = classes
        self._bounds = bounds

    async def serve(self, call: Call, sink: Sink) -> Receipt:
        """Serve a call and give its receipt.

        Raises a GatewayError that the caller has not been told of, unless it is StreamBroken,
        which was told in the stream. A cancelled call leaves neither a slot nor engine work.
        """
        receipt = Receipt(call)
        with self._accounting.account(receipt) as account:
            await self._attempt_until_served(call, sink, account)
        return receipt

    async def _attempt_until_served(self, call: Call, sink: Sink, account: Account) -> None:
        excluded: frozenset[str] = frozenset()
        last: GatewayError = NoReplica(call.model)
        for _ in range(self._bounds.attempts):
            slot = await self._slot(call, excluded, last, account.receipt)
            try:
                replica = self._replica(slot)
                with account.attempt(replica) as trace_headers:
                    headers = engine_headers(replica, *trace_headers)
                    await self._relay.forward(call, replica, sink, account.receipt, headers)
                return
            except AttemptFailed as failed:
                last = failed.error
                if not failed.again:
                    raise last from failed
                if failed.blames_replica:
                    excluded |= {slot.replica_id}
            finally:
                self._ledger.release(slot)
        raise last

    async def _slot(
        self, call: Call, excluded: frozenset[str], last: GatewayError, receipt: Receipt
    ) -> Slot:
        pool = self._registry.fleet.pool(call.model)
        found = candidates(pool, self._ledger.running, excluded=excluded)
        if not found:
            raise last
        state = PoolState(
            waiting=self._ledger.waiting(call.model),
            max_waiting=self._bounds.max_waiting,
            drain_per_s=self._ledger.drain_per_s(call.model),
        )
        promise = self._classes[call.class_name]
        least_s = self._bounds.retry_after_s
        decision = decide(state, patience_s=promise.patience_s, least_retry_s=least_s)
        if isinstance(decision, Reject):
            raise QueueFull(decision.retry_after_s)
        loop = asyncio.get_running_loop()
        within_s = min(decision.at_most_s, call.deadline - loop.time())
        ask = Ask(
            call_id=call.key,
            model=call.model,
            candidates=found,
            rank=promise.rank,
            first_token_by=call.arrived_at
            + (promise.targets(call.model).ttft_s or promise.patience_s),
            tenant=call.principal.tenant,
            excluded=excluded,
        )
        try:
            return await self._ledger.acquire(ask, within_s=within_s)
        except TimeoutError:
            raise QueueFull(retry_after(state, least_retry_s=least_s)) from None
        finally:
            receipt.queued_s = loop.time() - call.arrived

    def _replica(self, slot: Slot) -> Replica:
        standing = self._registry.fleet.standing(slot.replica_id)
        if standing is None:
            raise AttemptFailed(NoReplica(slot.model), again=True)
        return standing.replica
