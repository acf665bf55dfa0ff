"""What does this gateway tell the autoscaler, once a second?

Every call is counted when it is offered, whatever becomes of it, so that a fleet that refuses (or
has nothing at all) asks for more. Costs a few additions per call; who waits is looked at when told.
"""

import logging
import os
import socket
from collections.abc import Mapping
from typing import Protocol

from redis.asyncio import Redis
from redis.exceptions import RedisError

from backends import signals
from backends.clock import Clock
from backends.signals import Counters, Gauges, Key, Signal
from backends.slo import Class
from gateway.call import Call, Outcome, Receipt, Usage
from gateway.estimates import Estimates, Size
from gateway.plans import GENERATES
from gateway.pools import Pools
from gateway.promises import kept

MOST_TENANTS = 4096

_log = logging.getLogger(__name__)


class Sizes(Protocol):
    """Who knows the token work of calls, in GPU-seconds."""

    def expected_s(self, call: Call) -> float:
        """Guess a call's work on arrival."""
        ...

    def counted_s(self, call: Call, usage: Usage) -> float:
        """Give a call's work by the tokens that were counted."""
        ...


class Signaller:
    """Counts calls and publishes; one per gateway process."""

    def __init__(
        self,
        store: Redis,
        classes: Mapping[str, Class],
        sizes: Sizes,
        clock: Clock,
        *,
        name: str | None = None,
    ) -> None:
        self.name = name or f"{socket.gethostname()}-{os.getpid()}-{os.urandom(3).hex()}"
        self._store = store
        self._classes = classes
        self._sizes = sizes
        self._clock = clock
        self._epoch = clock.now()
        self._counters: dict[Key, Counters] = {}
        self._open: dict[int, tuple[Receipt, float]] = {}
        self._tenants: set[str] = set()

    def opened(self, receipt: Receipt) -> None:
        """Count an offered call."""
        call = receipt.call
        work_s = self._sizes.expected_s(call)
        counters = self._of(call)
        counters.offered += 1
        counters.offered_work_s += work_s
        self._open[id(receipt)] = (receipt, work_s)

    def closed(self, receipt: Receipt, duration_s: float) -> None:
        """Count how a call ended."""
        found = self._open.pop(id(receipt), None)
        if found is None:
            return
        call, counters = receipt.call, self._of(receipt.call)
        if receipt.outcome is Outcome.REFUSED:
            counters.refused += 1
        if receipt.usage is not None:
            counters.done_work_s += self._sizes.counted_s(call, receipt.usage)
            counters.estimated_work_s += found[1]
        promise = self._classes.get(call.class_name)
        if promise is None:
            return
        is_kept = kept(receipt, promise.targets(call.model), duration_s)
        if is_kept is not None:
            counters.kept += is_kept
            counters.broken += not is_kept

    def signal(self) -> Signal:
        """Say how it stands now."""
        gauges: dict[tuple[str, str], Gauges] = {}
        replicas: dict[str, int] = {}
        for receipt, work_s in self._open.values():
            call = receipt.call
            gauge = gauges.setdefault((call.model, call.class_name), Gauges())
            if receipt.attempts and receipt.replica_id is not None:
                gauge.running += 1
                gauge.running_work_s += work_s / 2  # a call is half done on average
                replicas[receipt.replica_id] = replicas.get(receipt.replica_id, 0) + 1
                continue
            gauge.waiting += 1
            gauge.waiting_work_s += work_s
            gauge.oldest_at = min(gauge.oldest_at or call.arrived_at, call.arrived_at)
            due_at = self._due_at(call)
            if due_at is not None:
                gauge.first_deadline_at = min(gauge.first_deadline_at or due_at, due_at)
        now = self._clock.now()
        return Signal(self.name, now, self._epoch, self._counters, gauges, replicas)

    async def run(self) -> None:
        """Publish once a second, for ever; copes with a store that is away."""
        ok = True
        while True:
            try:
                await signals.write(self._store, self.signal())
                ok = True
            except RedisError as error:
                if ok:
                    _log.warning("signals are not published: %s", error)
                ok = False
            await self._clock.sleep(signals.EVERY_S)

    def _due_at(self, call: Call) -> float | None:
        promise = self._classes.get(call.class_name)
        ttft_s = None if promise is None else promise.targets(call.model).ttft_s
        return None if ttft_s is None else call.arrived_at + ttft_s

    def _of(self, call: Call) -> Counters:
        tenant = call.principal.tenant
        if tenant not in self._tenants:
            if len(self._tenants) >= MOST_TENANTS:
                tenant = signals.OTHERS
            self._tenants.add(tenant)
        key = (call.model, call.class_name, tenant)
        found = self._counters.get(key)
        if found is None:
            found = self._counters[key] = Counters()
        return found


class EstimatedSizes:
    """Sizes as estimates and pools know them, in the unit of each pool's reference law."""

    def __init__(self, estimates: Estimates, pools: Pools) -> None:
        self._estimates = estimates
        self._pools = pools

    def expected_s(self, call: Call) -> float:
        """Guess a call's work on arrival."""
        size = Size(len(call.body.raw) / 4, 1.0)
        if call.operation in GENERATES:
            limit = call.attributes.get("gen_ai.request.max_tokens")
            size = self._estimates.size(
                call.principal.tenant,
                call.model,
                len(call.body.raw),
                limit if isinstance(limit, int) else None,
            )
        return self._pools.state(call.model).work_s(size)

    def counted_s(self, call: Call, usage: Usage) -> float:
        """Give a call's work by the tokens that were counted."""
        uncached = float(max(usage.prompt_tokens - usage.cached_tokens, 1))
        return self._pools.state(call.model).work_s(Size(uncached, usage.completion_tokens))
