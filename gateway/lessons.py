"""What does a call teach that had a slot? Told at its first token and at its end."""

import asyncio
from functools import partial

from gateway.afterwards import Later, at_once
from gateway.bearings import Bearings
from gateway.call import Receipt
from gateway.plans import GENERATES, Placed

LEAST_TIMED_TOKENS = 8  # an answer shorter than this says little of the time per token
UNARY_LATE = 1.25  # of a prompt's predicted time, after which it is taken to be through
LEAST_PREDICTED_S = 0.05  # below it a ratio says more of this process than of the replica


class Lessons:
    """Turns measured calls into what the estimates, pools and laws have learnt."""

    def __init__(self, bearings: Bearings, later: Later = at_once) -> None:
        self._registry = bearings.registry
        self._ledger = bearings.ledger
        self._clock = bearings.clock
        self._estimates = bearings.estimates
        self._pools = bearings.pools
        self.later = later

    def awaiting(self, placed: Placed, receipt: Receipt) -> "Awaiting":
        """Cover an attempt: hears its first token, and how it went."""
        return Awaiting(self, placed, receipt)

    def expect(self, placed: Placed) -> asyncio.TimerHandle | None:
        """Take a unary call's prompt to be done a little after it should be.

        Its answer tells nothing of its first token; booked for longer, prompts of rows would keep
        other calls out.
        """
        if placed.prediction is None:
            return None
        expected_s = UNARY_LATE * placed.prediction.ttft_s
        loop = asyncio.get_running_loop()
        return loop.call_later(expected_s, self._ledger.first_token, placed.slot)

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
        if tpot_s is None or usage.completion_tokens < LEAST_TIMED_TOKENS:
            return
        standing = self._registry.fleet.standing(placed.slot.replica_id)
        if standing is None:
            return
        if plan.targets.tpot_s is not None and placed.is_sure:
            pace = state.pace(placed.slot.replica_id, plan.klass.name)
            pace.observe(tpot_s, plan.targets.tpot_s, self._clock.monotonic())
        held = self._ledger.outstanding(placed.slot.replica_id)
        self._pools.law.timed(
            standing.replica, tpot_s,
            running=max(held.sequences, 1), kv_tokens=held.kv_tokens, now=self._clock.now(),
        )  # fmt: skip


class Awaiting:
    """One attempt, from its slot to its end."""

    __slots__ = ("_lessons", "_placed", "_receipt", "_timer")

    def __init__(self, lessons: Lessons, placed: Placed, receipt: Receipt) -> None:
        self._lessons = lessons
        self._placed = placed
        self._receipt = receipt
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> None:
        if self._placed.plan.call.stream:
            self._receipt.on_first_byte = partial(self._lessons.first_token, self._placed)
        else:
            self._timer = self._lessons.expect(self._placed)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._receipt.on_first_byte = None
        if self._timer is not None:
            self._timer.cancel()
        if kind is None:
            self._lessons.later(partial(self._lessons.ended, self._placed, self._receipt))
