"""Does the search find the highest valid rate, and spend little on it?"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from bench.certify.search import NS, RULES, Fleet, search
from loadtest.records import Log, Outcome
from loadtest.search import Probe, Searching, find
from loadtest.sequential import Caution, Outlook, outlook


@pytest.mark.parametrize(("knee", "start"), [(10.0, 4.0), (10.0, 30.0), (43.0, 43.0)])
def test_the_rate_found_is_near_the_knee_at_a_quarter_of_a_sweeps_cost(
    knee: float, start: float
) -> None:
    found = search(Fleet(knee), start, np.random.default_rng(1))
    assert found.qps is not None
    assert abs(found.qps / knee - 1) <= 0.03
    assert found.queries <= 0.25 * found.sweep_queries


def test_a_rate_that_does_not_hold_at_full_length_is_lowered() -> None:
    tried = []

    def try_rate(qps: float, whole: bool) -> Probe:
        tried.append((qps, whole))
        return Probe(qps, qps <= (9.0 if whole else 9.4), 1, whole)

    found = find(try_rate, 8.0, precision=0.02, whole_s=1)
    assert found.qps is not None
    assert 8.6 < found.qps <= 9.0
    confirmations = [qps for qps, whole in tried if whole]
    assert len(confirmations) > 1
    steps = [before / after for before, after in pairwise(confirmations)]
    assert steps == pytest.approx([1.02**lower for lower in range(1, len(steps) + 1)])


def test_a_search_without_an_end_says_so() -> None:
    with pytest.raises(Searching, match="still VALID"):
        find(lambda qps, whole: Probe(qps, True, 1, whole), 1, precision=0.1, whole_s=1)
    with pytest.raises(Searching, match="still INVALID"):
        find(lambda qps, whole: Probe(qps, False, 1, whole), 1, precision=0.1, whole_s=1)


def test_nothing_is_called_valid_before_the_queues_could_grow() -> None:
    rng = np.random.default_rng(1)
    good = Fleet(40).log(rng, 20, 60)
    assert outlook(good, RULES, 10, Caution()) is Outlook.OPEN
    assert outlook(good, RULES, 60, Caution()) is Outlook.VALID
    growing = Fleet(40).log(rng, 44, 30)
    assert outlook(growing, RULES, 60, Caution()) is not Outlook.VALID


def test_endpoints_at_the_limit_are_rarely_called_invalid_early() -> None:
    rng = np.random.default_rng(2)
    called = 0
    for _ in range(200):
        log = Fleet(40).log(rng, 40, 60)
        looks = (outlook(log.where(log.column("scheduled") < s * NS), RULES, 0, Caution())
                 for s in range(5, 60, 5))  # fmt: skip
        called += any(look is Outlook.INVALID for look in looks)
    assert called <= 6


def test_two_unanswered_queries_end_a_probe_and_one_a_confirmation() -> None:
    good = Fleet(40.0).log(np.random.default_rng(1), 20, 60)
    for failed, probe, confirmation in (
        (1, Outlook.OPEN, Outlook.INVALID),
        (2, Outlook.INVALID, Outlook.INVALID),
    ):
        rows = good.rows.copy()
        rows["outcome"][:failed] = Outcome.REFUSED
        assert outlook(Log(rows), RULES, 60, Caution()) is probe
        assert outlook(Log(rows), RULES, 60, Caution(failures=1)) is confirmation


def test_nothing_is_said_of_nothing() -> None:
    empty = Fleet(1).log(np.random.default_rng(1), 1, 0)
    assert outlook(empty, RULES, 100, Caution()) is Outlook.OPEN
