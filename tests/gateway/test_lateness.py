"""A call that is served late goes behind all that can be in time, and is known as what it was."""

from dataclasses import replace
from math import inf

import pytest
from msgspec import structs

from backends.slo import MLPERF_CLASSES, Class, Targets, WhenLate
from gateway.estimates import Size
from gateway.lateness import behind_all
from gateway.plans import Placed, Plan
from gateway.queue.ledger import Cost, Slot
from gateway.routing.predictions import Prediction
from tests.gateway.calls import call

SOFT = replace(MLPERF_CLASSES[1], when_late=WhenLate.SERVE)
CLASSES = (MLPERF_CLASSES[0], SOFT, MLPERF_CLASSES[2])


def plan(klass: Class = SOFT, targets: Targets | None = None) -> Plan:
    made = call()
    of = klass.targets(made.model) if targets is None else targets
    due = inf if of.ttft_s is None else made.arrived + of.ttft_s
    return Plan(made, klass, of, Size(100.0, 50.0), 0.1, due, returns=True)


def test_it_goes_behind_every_class_and_keeps_the_rest_of_its_patience() -> None:
    first = plan()
    late = behind_all(first, CLASSES, first.call.arrived + 12.0)
    assert late is not None
    assert late.klass.rank > max(each.rank for each in CLASSES)
    assert late.klass.name == "offline"  # whose bounds hold for it
    assert late.klass.patience_s == pytest.approx(SOFT.patience_s - 12.0)
    assert (late.targets.ttft_s, late.targets.tpot_s) == (None, first.targets.tpot_s)
    assert (late.first_token_by, late.returns) == (inf, False)
    assert late.promised is first
    assert first.promised is first


def test_it_is_late_once() -> None:
    first = plan()
    late = behind_all(first, CLASSES, first.call.arrived)
    assert late is not None
    assert behind_all(late, CLASSES, first.call.arrived) is None


def test_who_is_not_to_be_served_late_is_refused() -> None:
    arrived = call().arrived
    assert behind_all(plan(MLPERF_CLASSES[1]), CLASSES, arrived) is None
    assert behind_all(plan(targets=Targets()), CLASSES, arrived) is None
    assert behind_all(plan(), CLASSES, arrived + SOFT.patience_s) is None


def placed(of: Plan, ttft_s: float, *, is_sure: bool = True) -> Placed:
    slot = Slot("k", "r", of.call.model, "g:1", of.klass.rank, Cost(), 0.1, 0.0, 0.0)
    prediction = Prediction(ttft_s, 0.01, 0, 0.0, 0.0)
    return Placed(of, slot, prediction, of.call.arrived, is_sure=is_sure)


def test_a_slot_tells_by_how_much_the_promise_is_missed() -> None:
    first = plan()
    due_s = first.first_token_by - first.call.arrived
    in_time = placed(first, due_s - 0.5)
    assert (in_time.is_late, in_time.late_s) == (False, 0.0)
    late = placed(first, due_s + 0.5)
    assert late.is_late
    assert late.late_s == pytest.approx(0.5)
    assert not placed(first, due_s + 0.5, is_sure=False).is_late
    assert not placed(structs.replace(first, klass=MLPERF_CLASSES[1]), due_s + 0.5).is_late
    last = behind_all(first, CLASSES, first.call.arrived)
    assert last is not None
    assert placed(last, 0.1).is_late
    assert placed(last, due_s + 3.0).late_s == pytest.approx(3.0)
