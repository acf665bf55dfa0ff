"""Where does a call go, and may it start? What is known, put to the pure deciders and kept up.

One per gateway process, in front of the ledger: `plan` sizes a call up, `choose` asks routing,
`outlook` says what admission wants to know, and the rest takes in how it went.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from math import inf
from random import Random
from zlib import crc32

from backends.clock import Clock
from backends.fleet import HealthState, Pool
from backends.measured import BUILT_IN, Profiles
from backends.registry import Registry
from backends.slo import Class, Targets
from gateway.admission import Outlook
from gateway.afterwards import Later, at_once
from gateway.call import Call, Receipt
from gateway.estimates import Estimates, Size
from gateway.lessons import Lessons
from gateway.levels import Demand
from gateway.plans import GENERATES, Placed, Plan
from gateway.pool_state import PoolState
from gateway.pools import LAW_SHARE, Pools
from gateway.queue.ledger import Ask, Candidate, Cost, Ledger, Slot
from gateway.returns import Returns
from gateway.routing.policies import policy
from gateway.routing.predictions import predict
from gateway.routing.prefixes import block_keys
from gateway.routing.router import Choice, Question, is_reachable, ttft_from_slot_s
from gateway.waiters import Waiters

LOOK_EVERY_S = 0.5
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
        self._registry = registry
        self._ledger = ledger
        self._clock = clock
        self._classes = classes
        self._promises = policy_name == "promised"
        self._policy = policy(policy_name, dice or Random())
        self._weights = weights or {}
        self._most_waiting = most_waiting
        self.estimates = Estimates()
        self.pools = Pools(
            classes,
            ledger.outstanding,
            rtt_s or {},
            promises=self._promises,
            profiles=profiles,
        )
        self.lessons = Lessons(registry, ledger, clock, self.estimates, self.pools, later)
        self._returns: dict[str, Returns] = {}
        self._waiters: dict[str, Waiters] = {}
        self._offered: dict[tuple[str, str], tuple[Candidate, ...]] = {}
        self.shrinking: frozenset[str] = frozenset()  # models whose pools are losing replicas

    async def run(self) -> None:
        """Look at the pools twice a second, for ever."""
        while True:
            self.look()
            await self._clock.sleep(LOOK_EVERY_S)

    def look(self) -> None:
        """Learn what is new of every pool, and tell the ledger what may be used.

        A pool of which a replica drains is shrinking: its other calls fill the most loaded
        replicas, so that those which drain next have little left to finish.
        """
        now = self._clock.now()
        fleet = self._registry.fleet
        self.shrinking = frozenset(m for m, pool in fleet.pools.items() if _shrinks(pool))
        for model, pool in fleet.pools.items():
            state = self.pools.look(pool, self.estimates.mix(model), now=now)
            self._offer(model, state)
        ids = {s.replica.id for pool in fleet.pools.values() for s in pool.standings}
        self.pools.keep_only(ids)

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
        returns = self._returns.get(call.model)
        back = returns is not None and bool(returns.due) and returns.claim(_name(call), now)
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
            self._look_again(call.model)
        question = self._question(plan, state, tried)
        return self._policy(state.roster, question), question

    def outlook(self, plan: Plan, choice: Choice, question: Question) -> Outlook:
        """Say what admission looks at."""
        model = plan.call.model
        state = self.pools.state(model)
        best, now = choice.best, self._clock.monotonic()
        ahead_s, waiting, own_rank = 0.0, 0, plan.klass.rank
        for rank, backlog in self._ledger.backlog(model).items():
            waiting += backlog.calls
            if plan.returns or rank > own_rank:
                continue
            first = rank < own_rank
            ahead_s += backlog.work_s if first else self._own_class_s(plan, backlog.work_s)
        slack_s = inf if best is None else question.within_s - ttft_from_slot_s(choice, question)
        promised_s = 0.0
        returns = self._returns.get(model)
        if returns is not None and returns.due and not plan.returns:
            soon, tenant = now + min(max(slack_s, 0.0), 10.0), plan.call.principal.tenant
            promised_s = returns.work_until(soon, now, tenant=tenant)
        return Outlook(
            slack_s=slack_s,
            has_room=best is None or best.has_room,
            ahead_s=ahead_s,
            own_s=plan.work_s,
            does_per_s=self._does_per_s(plan, state),
            waiting=waiting,
            most_waiting=self._most_waiting,
            patience_s=plan.klass.patience_s,
            reachable=best is None or is_reachable(choice, question),
            idle=best is not None and best.prediction.running == 0 and not waiting,
            sure=best is not None and best.prospect.speed.at > 0.0,
            promised_s=promised_s,
        )

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

    def waiting(self, plan: Plan) -> AbstractContextManager[None]:
        """Cover the time that a call waits for a slot."""
        waiters = self._waiters.get(plan.call.model)
        if waiters is None:
            waiters = self._waiters[plan.call.model] = Waiters()
        return waiters.waiting(plan.klass.rank, plan.call.principal.tenant, plan.work_s)

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

    def load(self, plan: Plan) -> float:
        """Give the share of the slots for a call's class that is taken in its pool."""
        roster = self.pools.state(plan.call.model).roster
        return roster.load(plan.klass.name, self._ledger.outstanding)

    def awaiting(self, placed: Placed, receipt: Receipt) -> AbstractContextManager[None]:
        """Cover an attempt: hears its first token, and learns how it went."""
        return self.lessons.awaiting(placed, receipt)

    def return_after(self, plan: Plan, outlook: Outlook, retry_after_s: float) -> float:
        """Promise a refused call a time to come back; give it in seconds from now."""
        if not self._promises:
            return retry_after_s
        now = self._clock.monotonic()
        book = self._returns.setdefault(plan.call.model, Returns())
        at = book.promise(
            _name(plan.call), plan.work_s, outlook.does_per_s, now + retry_after_s, now,
            tenant=plan.call.principal.tenant,
        )  # fmt: skip
        return at - now

    def _own_class_s(self, plan: Plan, all_s: float) -> float:
        waiters = self._waiters.get(plan.call.model)
        if waiters is None:
            return all_s
        tenant = plan.call.principal.tenant
        return waiters.ahead_s(plan.klass.rank, tenant, plan.work_s, all_s, self._weights)

    def _does_per_s(self, plan: Plan, state: PoolState) -> float:
        """Give the work that the pool does in a second for a class and those that follow it.

        What was measured lately or, if that is more, most of what the law says; less what classes
        that go first ask for. A fiftieth is always left: the ledger starves no class.
        """
        whole = max(
            self._ledger.work_per_s(state.model),
            LAW_SHARE * state.does_per_s.get(plan.klass.name, 0.0),
        )
        now = self._clock.now()
        first, classes, own_rank = 0.0, self._classes, plan.klass.rank
        for name in state.demand:
            if name in classes and classes[name].rank < own_rank:
                first += state.asked_per_s(name, now)
        for name in state.others:
            if name not in state.demand and name in classes and classes[name].rank < own_rank:
                first += state.asked_per_s(name, now)
        return max(whole - first, 0.02 * whole)

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
            shrinking=plan.call.model in self.shrinking,
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

    def _look_again(self, model: str) -> None:
        pool = self._registry.fleet.pool(model)
        if pool.routable:
            state = self.pools.look(pool, self.estimates.mix(model), now=self._clock.now())
            self._offer(model, state)

    def _offer(self, model: str, state: PoolState) -> None:
        """Tell the ledger the bounds that have changed."""
        loosest = max(self._classes.values(), key=lambda c: c.rank)
        for name in (loosest.name, *self._classes):
            bounds = tuple(p.bounds[name] for p in state.roster.prospects)
            is_all = name == loosest.name
            key = (model, "" if is_all else name)
            if self._offered.get(key) == bounds:
                continue
            self._offered[key] = bounds
            rank = None if is_all else self._classes[name].rank
            self._ledger.offer(model, bounds, rank=rank)


def _shrinks(pool: Pool) -> bool:
    return any(s.health.state is HealthState.DRAINING for s in pool.standings)


def _name(call: Call) -> int:
    """Name what is asked, and by whom, so that it is known again when it comes back."""
    return crc32(call.body.raw) ^ hash((call.principal.key_id, call.model, len(call.body.raw)))
