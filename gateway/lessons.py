"""What does a call teach that had a slot? Told at its first token and at its end."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from backends.clock import Clock
from backends.registry import Registry
from gateway.call import Receipt
from gateway.estimates import Estimates
from gateway.plans import GENERATES, Placed
from gateway.pools import Pools
from gateway.queue.ledger import Ledger

LEAST_TIMED_TOKENS = 8  # an answer shorter than this says little of the time per token
UNARY_LATE = 1.25  # of a prompt's predicted time, after which it is taken to be through
LEAST_PREDICTED_S = 0.05  # below it a ratio says more of this process than of the replica


class Lessons:
    """Turns measured calls into what the estimates, pools and laws have learnt."""

    def __init__(
        self,
        registry: Registry,
        ledger: Ledger,
        clock: Clock,
        estimates: Estimates,
        pools: Pools,
    ) -> None:
        self._registry = registry
        self._ledger = ledger
        self._clock = clock
        self._estimates = estimates
        self._pools = pools

    @contextmanager
    def awaiting(self, placed: Placed, receipt: Receipt) -> Iterator[None]:
        """Cover an attempt: hears its first token, and how it went.

        A unary answer tells nothing of its first token, so its prompt is taken to be done a little
        after it should be: booked for longer, prompts of rows would keep other calls out.
        """
        timer: asyncio.TimerHandle | None = None
        if placed.plan.call.stream:
            receipt.on_first_byte = lambda: self.first_token(placed)
        elif placed.prediction is not None:
            loop = asyncio.get_running_loop()
            expected_s = UNARY_LATE * placed.prediction.ttft_s
            timer = loop.call_later(expected_s, self._ledger.first_token, placed.slot)
        try:
            yield
            self.ended(placed, receipt)
        finally:
            receipt.on_first_byte = None
            if timer is not None:
                timer.cancel()

    def first_token(self, placed: Placed) -> None:
        """Take in that the first token is there."""
        self._ledger.first_token(placed.slot)
        plan, prediction = placed.plan, placed.prediction
        if prediction is None or not plan.call.stream:
            return
        now = self._clock.monotonic()
        took_s = now - placed.granted
        state = self._pools.state(plan.call.model)
        if plan.targets.ttft_s is not None and placed.is_sure:
            late_s = took_s - prediction.ttft_s
            state.margin(plan.klass.name).observe(late_s, plan.targets.ttft_s)
        ratio = took_s / max(prediction.ttft_s, LEAST_PREDICTED_S)
        state.outliers.observe(placed.slot.replica_id, ratio, now)

    def ended(self, placed: Placed, receipt: Receipt) -> None:
        """Take in how a call went that had a slot to its end.

        A pace is what spread costs beside a law that is known: a call that was placed by an assumed
        one tells how wrong that was, which would make a replica shallow for minutes.
        """
        plan, usage = placed.plan, receipt.usage
        call = plan.call
        if usage is None or call.operation not in GENERATES:
            return
        state = self._pools.state(call.model)
        self._estimates.learn(call.principal.tenant, call.model, len(call.body.raw), usage)
        if placed.prediction is not None:
            expected = placed.prediction.cached_tokens
            state.prefixes.learn(expected, usage.cached_tokens, usage.prompt_tokens)
        tpot_s = receipt.tpot_s
        standing = self._registry.fleet.standing(placed.slot.replica_id)
        if tpot_s is None or standing is None or usage.completion_tokens < LEAST_TIMED_TOKENS:
            return
        if plan.targets.tpot_s is not None and placed.is_sure:
            pace = state.pace(placed.slot.replica_id, plan.klass.name)
            pace.observe(tpot_s, plan.targets.tpot_s, self._clock.monotonic())
        held = self._ledger.outstanding(placed.slot.replica_id)
        self._pools.law.timed(
            standing.replica, tpot_s,
            running=max(held.sequences, 1), kv_tokens=held.kv_tokens, now=self._clock.now(),
        )  # fmt: skip
