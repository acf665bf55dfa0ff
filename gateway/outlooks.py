"""What does admission want to know of a call: who is ahead of it, and how fast does that go on?"""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from math import inf
from zlib import crc32

from gateway.admission import Outlook
from gateway.bearings import Bearings
from gateway.call import Call
from gateway.plans import Plan
from gateway.pool_state import PoolState
from gateway.pools import LAW_SHARE
from gateway.returns import Returns
from gateway.routing.router import Choice, Question, is_reachable, ttft_from_slot_s
from gateway.waiters import Waiters


class Outlooks:
    """What waits, and what was promised to those who were refused; `returns` is by model.

    `weights` are tenants' shares. `promises` False: nobody is told a time of his own.
    """

    def __init__(
        self,
        bearings: Bearings,
        *,
        weights: Mapping[str, float],
        most_waiting: int,
        promises: bool,
    ) -> None:
        self.returns: dict[str, Returns] = {}
        self._ledger = bearings.ledger
        self._clock = bearings.clock
        self._classes = bearings.classes
        self._pools = bearings.pools
        self._weights = weights
        self._most_waiting = most_waiting
        self._promises = promises
        self._waiters: dict[str, Waiters] = {}

    def of(self, plan: Plan, choice: Choice, question: Question) -> Outlook:
        """Say what admission looks at."""
        model = plan.call.model
        state = self._pools.state(model)
        best, now = choice.best, self._clock.monotonic()
        ahead_s, waiting, in_all, own_rank = 0.0, 0, 0, plan.klass.rank
        for rank, backlog in self._ledger.backlog(model).items():
            in_all += backlog.calls
            # A queue that looser calls have filled refuses nobody who goes before them.
            waiting += backlog.calls if rank <= own_rank else 0
            if plan.returns or rank > own_rank:
                continue
            first = rank < own_rank
            ahead_s += backlog.work_s if first else self._own_class_s(plan, backlog.work_s)
        slack_s = inf if best is None else question.within_s - ttft_from_slot_s(choice, question)
        promised_s = 0.0
        returns = self.returns.get(model)
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
            idle=best is not None and best.prediction.running == 0 and not in_all,
            sure=best is not None and best.prospect.speed.at > 0.0,
            promised_s=promised_s,
            late=plan.missed is not None,
        )

    def waiting(self, plan: Plan) -> AbstractContextManager[None]:
        """Cover the time that a call waits for a slot."""
        waiters = self._waiters.get(plan.call.model)
        if waiters is None:
            waiters = self._waiters[plan.call.model] = Waiters()
        return waiters.waiting(plan.klass.rank, plan.call.principal.tenant, plan.work_s)

    def return_after(self, plan: Plan, outlook: Outlook, retry_after_s: float) -> float:
        """Promise a refused call a time to come back; give it in seconds from now."""
        if not self._promises:
            return retry_after_s
        now = self._clock.monotonic()
        book = self.returns.setdefault(plan.call.model, Returns())
        at = book.promise(
            name_of(plan.call), plan.work_s, outlook.does_per_s, now + retry_after_s, now,
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


def name_of(call: Call) -> int:
    """Name what is asked, and by whom, so that it is known again when it comes back."""
    return crc32(call.body.raw) ^ hash((call.principal.key_id, call.model, len(call.body.raw)))
