"""What admission is told of a queue that several classes share."""

from math import inf
from types import SimpleNamespace
from typing import cast

import pytest

from backends.slo import MLPERF_CLASSES
from gateway.admission import Reason, Reject, decide
from gateway.bearings import Bearings
from gateway.estimates import Size
from gateway.outlooks import Outlooks
from gateway.plans import Plan
from gateway.pools import Pools
from gateway.queue.ledger import Backlog, Cost
from gateway.routing.router import Choice, Question
from tests.gateway.calls import ARRIVED, call

CLASSES = {each.name: each for each in MLPERF_CLASSES}
MOST = 10


class _Ledger:
    """A queue that batch calls have filled."""

    def backlog(self, model: str) -> dict[int, Backlog]:
        return {
            CLASSES["offline"].rank: Backlog(MOST, 5.0),
            CLASSES["server"].rank: Backlog(1, 0.1),
        }

    def work_per_s(self, model: str) -> float:
        return 1.0


class _Clock:
    def now(self) -> float:
        return 1.7e9

    def monotonic(self) -> float:
        return ARRIVED


@pytest.mark.parametrize(("name", "counted"), [("interactive", 0), ("server", 1), ("offline", 11)])
def test_a_queue_full_of_looser_calls_refuses_nobody_who_goes_before_them(
    name: str, counted: int
) -> None:
    pools = Pools(CLASSES, lambda _: Cost(0, 0, 0), {})
    known = SimpleNamespace(ledger=_Ledger(), clock=_Clock(), classes=CLASSES, pools=pools)
    bearings = cast("Bearings", known)
    outlooks = Outlooks(bearings, weights={}, most_waiting=MOST, promises=False)
    klass = CLASSES[name]
    plan = Plan(call(class_name=name), klass, klass.targets("llama2-70b"), Size(10, 10), 0.1, inf)
    question = cast("Question", None)  # no replica is left to ask about
    outlook = outlooks.of(plan, Choice(), question)
    assert outlook.waiting == counted
    decision = decide(outlook, least_retry_s=1.0)
    full = isinstance(decision, Reject) and decision.reason is Reason.QUEUE_FULL
    assert full is (name == "offline")
