"""Does the search find the highest valid rate, and spend little on it?"""

from __future__ import annotations

import numpy as np
import pytest

from loadtest.judgement import Verdict
from loadtest.records import Log
from loadtest.rules import Mode, Rules
from loadtest.search import Found, Probe, Searching, find
from loadtest.sequential import Caution, Outlook, outlook
from loadtest.verdict import judge

MS = 1_000_000
NS = 1_000_000_000
WHOLE_S = 600.0
RULES = Rules(
    Mode.SERVER,
    ttft_ns=450 * MS,
    tpot_ns=40 * MS,
    min_duration_ns=round(WHOLE_S * 0.9 * NS),
    late_p99_ns=None,
)


def fleet(rng: np.random.Generator, qps: float, knee: float, seconds: float) -> Log:
    """Draw the log of a fleet that answers in time up to its knee and queues beyond it."""
    count = int(qps * seconds)
    scheduled = np.sort(rng.uniform(0, seconds * NS, count)).astype(np.int64)
    busy = qps / knee
    # Below the knee the share over the limit rises to 1 % exactly at the knee.
    centre = 450 * MS * busy**2
    ttft = centre * np.exp(0.1 * (rng.standard_normal(count) - 2.326))
    if busy > 1:
        ttft += (busy - 1) * scheduled
    first = scheduled + ttft.astype(np.int64)
    done = first + 50 * 30 * MS
    return Log.made(scheduled, first, done, np.full(count, 51))


def search(knee: float, start: float, seed: int) -> Found:
    """Search a simulated fleet as it is done live: probes are looked at every second."""
    rng = np.random.default_rng(seed)

    def try_rate(qps: float, whole: bool) -> Probe:
        log = fleet(rng, qps, knee, WHOLE_S)
        if whole:
            return Probe(qps, judge(log, RULES).verdict is Verdict.VALID, len(log), True)
        done = log.column("done")
        for second in range(5, int(WHOLE_S), 5):
            seen = log.where(done <= second * NS)
            outcome = outlook(seen, RULES, second, Caution())
            if outcome is not Outlook.OPEN:
                offered = int((log.column("scheduled") <= second * NS).sum())
                return Probe(qps, outcome is Outlook.VALID, offered, False)
        return Probe(qps, judge(log, RULES).verdict is Verdict.VALID, len(log), False)

    return find(try_rate, start, precision=0.02, whole_s=WHOLE_S)


@pytest.mark.parametrize(("knee", "start"), [(10.0, 4.0), (10.0, 30.0), (43.0, 43.0)])
def test_the_rate_found_is_near_the_knee_at_a_quarter_of_a_sweeps_cost(
    knee: float, start: float
) -> None:
    found = search(knee, start, seed=1)
    assert found.qps is not None
    assert abs(found.qps / knee - 1) <= 0.03
    assert found.queries <= 0.25 * found.sweep_queries
    print(f"knee {knee}, from {start}: {found.qps:.3f}, {found.queries / found.sweep_queries:.1%}")


def test_a_rate_that_does_not_hold_at_full_length_is_lowered() -> None:
    tried = []

    def try_rate(qps: float, whole: bool) -> Probe:
        tried.append((qps, whole))
        return Probe(qps, qps <= (9.0 if whole else 9.4), 1, whole)

    found = find(try_rate, 8.0, precision=0.02, whole_s=1)
    assert found.qps is not None
    assert 8.6 < found.qps <= 9.0
    assert len([whole for _, whole in tried if whole]) > 1


def test_a_search_without_an_end_says_so() -> None:
    with pytest.raises(Searching, match="still VALID"):
        find(lambda qps, whole: Probe(qps, True, 1, whole), 1, precision=0.1, whole_s=1)
    with pytest.raises(Searching, match="still INVALID"):
        find(lambda qps, whole: Probe(qps, False, 1, whole), 1, precision=0.1, whole_s=1)


def test_nothing_is_called_valid_before_the_queues_could_grow() -> None:
    rng = np.random.default_rng(1)
    good = fleet(rng, 20, 40, 60)
    assert outlook(good, RULES, 10, Caution()) is Outlook.OPEN
    assert outlook(good, RULES, 60, Caution()) is Outlook.VALID
    growing = fleet(rng, 44, 40, 30)
    assert outlook(growing, RULES, 60, Caution()) is not Outlook.VALID


def test_endpoints_at_the_limit_are_rarely_called_invalid_early() -> None:
    rng = np.random.default_rng(2)
    called = 0
    for _ in range(200):
        log = fleet(rng, 40, 40.0, 60)
        looks = (outlook(log.where(log.column("scheduled") < s * NS), RULES, 0, Caution())
                 for s in range(5, 60, 5))  # fmt: skip
        called += any(look is Outlook.INVALID for look in looks)
    assert called <= 6


def test_nothing_is_said_of_nothing() -> None:
    empty = fleet(np.random.default_rng(1), 1, 1, 0)
    assert outlook(empty, RULES, 100, Caution()) is Outlook.OPEN
