"""The measure is measured alike: the ideal controller's calls are good within both limits only."""

from backends.hardware import profile
from backends.slo import MLPERF_CLASSES
from bench.slo_ideal import Ideal
from bench.slo_world import MODEL, Tally, Workload

LAW = profile(MODEL, "mi355x").law.scaled(0.05)
INTERACTIVE = MLPERF_CLASSES[0]


def run(margin: float, per_s: float) -> Tally:
    world = Ideal([LAW] * 2, Workload().mix, INTERACTIVE, margin=margin)
    world.pass_by(per_s, Workload(), 5.0, 20.0)
    return world.tallies["interactive"]


def test_engines_that_are_filled_beyond_the_limit_of_tpot_answer_too_slowly() -> None:
    assert run(1.3, 30.0).slow > 20
    assert run(0.85, 30.0).slow < 5


def test_every_call_is_good_late_slow_or_refused() -> None:
    tally = run(0.9, 30.0)
    assert tally.sent == tally.good + tally.late_first + tally.slow + sum(tally.refused.values())
    assert tally.refused["too_late"] > 0
