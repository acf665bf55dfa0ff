"""Where does a call go, and may it start? What is known, put to the pure deciders and kept up.

One per gateway process, in front of the ledger: `plan` sizes a call up, `choose` asks routing,
`outlooks` says what admission wants to know, and the rest takes in how it went. `lookout` keeps an
eye on the pools.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from math import inf
from random import Random

from backends.clock import Clock
from backends.measured import BUILT_IN, Profiles
from backends.registry import Registry
from backends.slo import Class, Targets, WhenLate
from gateway.admission import Outlook, Reason
from gateway.afterwards import Later, at_once
from gateway.bearings import Bearings
from gateway.call import Call, Receipt
from gateway.estimates import Estimates, Size
from gateway.lateness import behind_all
from gateway.lessons import Lessons
from gateway.levels import Demand
from gateway.lookout import Lookout
from gateway.outlooks import Outlooks, name_of
from gateway.plans import GENERATES, Placed, Plan
from gateway.pool_state import PoolState
from gateway.pools import Pools
from gateway.queue.ledger import Ask, Cost, Ledger, Slot
from gateway.routing.policies import policy
from gateway.routing.predictions import predict
from gateway.routing.prefixes import block_keys
from gateway.routing.router import Choice, Question

HASTE_S = 3600.0  # who returns when told comes before who is new, in the order of deadlines


class Steering:
    """Everything that decides, and what it has learnt."""

    def __init__(
        self,
        *,
        registry: Registry,
        ledger: Ledger,
        clock: Clock,
        classes: Mapping[str, Class],
        policy_name: str = "promised",
        rtt_s: Mapping[str, float] | None = None,
        weights: Mapping[str, float] | None = None,
        most_waiting: int = 4096,
        dice: Random | None = None,
        later: Later = at_once,
        profiles: Profiles = BUILT_IN,
    ) -> None:
        self._ledger = ledger
        self._clock = clock
        self._classes = classes
        self._promises = policy_name == "promised"
        self._policy = policy(policy_name, dice or Random())
        self._weights = weights or {}
        self.estimates = Estimates()
        self.pools = Pools(
            classes,
            ledger.outstanding,
            rtt_s or {},
            promises=self._promises,
            profiles=profiles,
        )
        bearings = Bearings(registry, ledger, clock, classes, self.estimates, self.pools)
        self.lessons = Lessons(bearings, later)
        self.lookout = Lookout(bearings)
        self.outlooks = Outlooks(
            bearings, weights=self._weights, most_waiting=most_waiting, promises=self._promises
        )

    def plan(self, call: Call, class_name: str | None = None) -> Plan:
        """Size a call up, under its own class or another one."""
        klass = self._classes[class_name or call.class_name]
        generates = call.operation in GENERATES
        targets = Targets()
        if generates and self._promises:
            targets = klass.targets(call.model)
            if call.hint is not None and class_name is None:
                targets = call.hint
        size = self._size(call) if generates else Size(len(call.body.raw) / 4, 1.0)
        state = self.pools.state(call.model)
        keys = block_keys(call.body.raw, call.body.ours.get("cache_salt")) if generates else ()
        cached = state.prefixes.matched(keys, len(call.body.raw)) if keys else {}
        work = state.work_s(size, max(cached.values(), default=0.0))
        now = self._clock.monotonic()
        demand = state.demand.get(klass.name)
        if demand is None:
            demand = state.demand[klass.name] = Demand()
        demand.ask(work, self._clock.now())
        returns = self.outlooks.returns.get(call.model)
        back = returns is not None and bool(returns.due) and returns.claim(name_of(call), now)
        due = inf if targets.ttft_s is None else call.arrived + targets.ttft_s
        return Plan(call, klass, targets, size, work, due, keys, cached, back)

    def tokens(self, call: Call) -> float:
        """Guess the tokens of a call, prompt and answer, for limits; nothing is noted."""
        if call.operation not in GENERATES:
            return len(call.body.raw) / 4
        size = self._size(call)
        return size.prompt_tokens + size.output_tokens

    def choose(self, plan: Plan, tried: frozenset[str]) -> tuple[Choice, Question]:
        """Ask routing for the candidates."""
        call = plan.call
        state = self.pools.state(call.model)
        if not state.roster.prospects:
            self.lookout.look_again(call.model)
        question = self._question(plan, state, tried)
        return self._policy(state.roster, question), question

    def ask(self, plan: Plan, choice: Choice, tried: frozenset[str]) -> Ask:
        """Word what is asked of the ledger."""
        call, size = plan.call, plan.size
        due = min(plan.first_token_by - call.arrived, plan.klass.patience_s)
        cached = 0.0 if choice.best is None else choice.best.prediction.cached_tokens
        missing = max(int(size.prompt_tokens - cached), 1)
        return Ask(
            call_id=call.key,
            model=call.model,
            candidates=choice.candidates,
            rank=plan.klass.rank,
            first_token_by=call.arrived_at + due - (HASTE_S if plan.returns else 0.0),
            tenant=call.principal.tenant,
            weight=self._weights.get(call.principal.tenant, 1.0),
            work_s=plan.work_s,
            cost=Cost(1, int(size.prompt_tokens + size.output_tokens / 2), missing),
            excluded=choice.never | tried,
        )

    def placed(self, plan: Plan, slot: Slot, question: Question) -> Placed:
        """Take in that a call has a slot."""
        state = self.pools.state(plan.call.model)
        now = self._clock.monotonic()
        if plan.keys:
            state.prefixes.sent(slot.replica_id, plan.keys)
        if not self._promises or plan.call.operation not in GENERATES:
            return Placed(plan, slot, None, now)
        prospect = state.roster.by_id.get(slot.replica_id)
        if prospect is None:
            return Placed(plan, slot, None, now)
        held = self._ledger.outstanding(slot.replica_id)
        before = Cost(
            max(held.sequences - 1, 0),
            max(held.kv_tokens - slot.cost.kv_tokens, 0),
            max(held.prefill_tokens - slot.cost.prefill_tokens, 0),
        )
        cached = question.cached.get(slot.replica_id, 0.0) * plan.size.prompt_tokens
        prediction = predict(prospect, before, plan.size, state.mix, cached_tokens=cached)
        margin_s = 0.0
        if plan.targets.ttft_s is not None:
            margin_s = state.margin(plan.klass.name).within(plan.targets.ttft_s)
        return Placed(plan, slot, prediction, now, margin_s, prospect.speed.at > 0.0)

    def takes(self, placed: Placed, outlook: Outlook) -> bool:
        """Say whether a call starts in the slot that it got.

        One that would be late and may be does where nobody else waits for the slot.
        """
        if placed.is_in_time or not (outlook.reachable and outlook.sure):
            return True
        serves = placed.plan.klass.when_late is WhenLate.SERVE
        return serves and not self._ledger.waiting(placed.plan.call.model)

    def lower(self, plan: Plan, reason: Reason) -> Plan | None:
        """Say how a call goes on that its class cannot keep: demoted, or late; None: refused."""
        klass, call = plan.klass, plan.call
        if klass.demote_to is not None and klass.name == call.class_name:
            return self.plan(call, klass.demote_to)
        if reason is Reason.QUEUE_FULL:
            return None
        return behind_all(plan, self._classes.values(), self._clock.monotonic())

    def load(self, plan: Plan) -> float:
        """Give the share of the slots for a call's class that is taken in its pool."""
        roster = self.pools.state(plan.call.model).roster
        return roster.load(plan.klass.name, self._ledger.outstanding)

    def awaiting(self, placed: Placed, receipt: Receipt) -> AbstractContextManager[None]:
        """Cover an attempt: hears its first token, and learns how it went."""
        return self.lessons.awaiting(placed, receipt)

    def _question(self, plan: Plan, state: PoolState, tried: frozenset[str]) -> Question:
        now = self._clock.monotonic()
        within_s = inf
        if plan.targets.ttft_s is not None:
            margin_s = state.margin(plan.klass.name).within(plan.targets.ttft_s)
            within_s = plan.first_token_by - now - margin_s
        return Question(
            class_name=plan.klass.name,
            targets=plan.targets,
            size=plan.size,
            mix=state.mix,
            within_s=within_s,
            held=self._ledger.outstanding,
            cached=plan.cached,
            tried=tried,
            ejected=state.outliers.ejected(now),
            shrinking=plan.call.model in self.lookout.shrinking,
            now=self._clock.now(),
        )

    def _size(self, call: Call) -> Size:
        limit = call.attributes.get("gen_ai.request.max_tokens")
        count = call.attributes.get("gen_ai.request.choice.count", 1)
        size = self.estimates.size(
            call.principal.tenant,
            call.model,
            len(call.body.raw),
            limit if isinstance(limit, int) else None,
        )
        if isinstance(count, int) and count > 1:
            return Size(size.prompt_tokens, size.output_tokens * count)
        return size
