"""Does the judgement say what LoadGen's rules say, and what we add?"""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, norm

from loadtest import early_stopping
from loadtest.judgement import Judgement, Verdict
from loadtest.records import Log, Outcome
from loadtest.rules import Mode, Rules
from loadtest.verdict import judge

MS = 1_000_000
NS = 1_000_000_000
SERVER = Rules(
    Mode.SERVER, ttft_ns=450 * MS, tpot_ns=40 * MS, min_duration_ns=60 * NS, min_queries=100
)
NEEDED_P99 = {
    0: 459, 1: 662, 2: 838, 5: 1307, 10: 2010, 20: 3304, 32: 4774, 50: 6898, 100: 12571,
    200: 23527, 500: 55427, 1000: 107569, 2000: 210600,
}  # fmt: skip
NEEDED_P90 = {0: 44, 1: 64, 2: 81, 5: 127, 10: 197, 20: 325, 50: 681, 100: 1246}
NEEDED_P999 = {0: 4603, 1: 6636, 2: 8403, 10: 20140, 100: 125826}
MOST_P99 = {
    459: 0, 1000: 2, 2000: 9, 5000: 33, 10000: 77, 24576: 209, 50000: 448, 172032: 1624,
    663552: 6447, 3366912: 33244, 4399104: 43505,
}  # fmt: skip
MOST_P90 = {64: 1, 100: 3, 127: 5, 148: 6, 248: 13, 1024: 80}


def made(
    count: int,
    *,
    ttft_ms: float = 100,
    tpot_ms: float = 20,
    tokens: int = 51,
    gap_ms: float = 100,
    late_ttft: int = 0,
    late_tpot: int = 0,
) -> Log:
    """Make a log of `count` equal queries, some of them too late."""
    scheduled = (np.arange(count) * gap_ms * MS).astype(np.int64)
    ttft = np.full(count, ttft_ms * MS)
    ttft[:late_ttft] = 451 * MS
    tpot = np.full(count, tpot_ms * MS)
    tpot[count - late_tpot :] = 41 * MS
    first = scheduled + ttft.astype(np.int64)
    done = first + (tpot * (tokens - 1)).astype(np.int64)
    return Log.made(scheduled, first, done, np.full(count, tokens))


def whats(judgement: Judgement) -> set[str]:
    return {reason.what for reason in judgement.reasons}


@pytest.mark.parametrize(
    ("percentile", "table"), [(0.99, NEEDED_P99), (0.9, NEEDED_P90), (0.999, NEEDED_P999)]
)
def test_the_published_early_stopping_tables_hold(percentile: float, table: dict[int, int]) -> None:
    assert {t: early_stopping.needed(t, percentile) for t in table} == table


@pytest.mark.parametrize(("percentile", "table"), [(0.99, MOST_P99), (0.9, MOST_P90)])
def test_the_most_misses_of_a_count(percentile: float, table: dict[int, int]) -> None:
    assert {n: early_stopping.most_over(n, percentile) for n in table} == table


def test_no_misses_are_few_enough_for_a_short_run() -> None:
    assert early_stopping.most_over(458, 0.99) == -1
    assert early_stopping.effective_percentile(458, 0.99) == 100
    assert early_stopping.effective_percentile(24576, 0.99) == pytest.approx(99.15, abs=0.005)


@given(st.integers(0, 3000), st.sampled_from([0.9, 0.97, 0.99, 0.999]))
def test_passing_is_what_a_binomial_test_would_say(over: int, percentile: float) -> None:
    count = early_stopping.needed(over, percentile)
    assert binom.cdf(over, count, 1 - percentile) < 0.01
    assert binom.cdf(over, count - 1, 1 - percentile) >= 0.01 * (1 - 1e-9)


def test_a_good_run_is_valid_with_loadgens_figures() -> None:
    judgement = judge(made(1000), SERVER)
    assert judgement.verdict is Verdict.VALID
    assert judgement.ttft is not None
    assert judgement.ttft.target == 100 * MS
    assert judgement.tpot is not None
    assert judgement.tpot.target == 20 * MS
    assert judgement.duration_s == 99.9
    assert judgement.window_s == pytest.approx(99.9 + 0.1 + 1.0)
    assert judgement.completed_tokens_per_s == pytest.approx(51_000 / 101.0)
    assert judgement.completed_samples_per_s == pytest.approx(999 / 101.0)


def test_the_window_ends_with_the_last_scheduled_query_not_the_last_completed() -> None:
    log = made(1000)
    log.rows["done"][3] = 500 * NS
    assert judge(log, SERVER).window_s == pytest.approx(101.0)


def test_the_limit_itself_passes() -> None:
    assert judge(made(1000, ttft_ms=450), SERVER).verdict is Verdict.VALID
    assert "ttft" in whats(judge(made(1000, ttft_ms=450.000001), SERVER))


@pytest.mark.parametrize("what", ["ttft", "tpot"])
def test_each_token_latency_is_stopped_early_on_its_own(what: str) -> None:
    name = f"late_{what}"
    assert judge(made(1000, **{name: 2}), SERVER).verdict is Verdict.VALID
    judgement = judge(made(1000, **{name: 3}), SERVER)
    assert whats(judgement) == {f"early_stopping_{what}"}
    [missed] = [one for one in judgement.early_stopping if not one.met]
    assert (missed.over, missed.needed, missed.more) == (3, 1001, 1)


def test_every_reason_is_told() -> None:
    judgement = judge(made(50, late_ttft=20, late_tpot=20), SERVER)
    assert whats(judgement) == {
        "ttft", "tpot", "min_duration", "min_queries", "early_stopping_ttft", "early_stopping_tpot",
    }  # fmt: skip


@pytest.mark.parametrize("outcome", [o for o in Outcome if o is not Outcome.OK])
def test_one_query_not_answered_in_full_makes_a_run_invalid(outcome: Outcome) -> None:
    log = made(1000)
    log.rows["outcome"][7] = outcome
    judgement = judge(log, SERVER)
    assert whats(judgement) == {"unanswered"}
    assert f"1 {outcome.name.lower()}" in judgement.reasons[0].text
    assert judgement.ttft is not None
    assert judgement.ttft.over == 1, "it counts as over every limit"


def test_queries_without_a_record_are_missed() -> None:
    assert whats(judge(made(1000), SERVER, offered=1001)) == {"missing"}


def test_a_late_generator_makes_a_run_invalid() -> None:
    log = made(1000)
    log.rows["sent"][:11] += 11 * MS
    judgement = judge(log, SERVER)
    assert whats(judgement) == {"late_generator"}
    assert judgement.reasons[0].source == "sluice"


def test_an_interrupted_run_is_incomplete_whatever_it_shows() -> None:
    assert judge(made(1000), SERVER, interrupted=True).verdict is Verdict.INCOMPLETE
    assert judge(made(10), SERVER, interrupted=True).verdict is Verdict.INCOMPLETE


def test_an_empty_log_is_invalid() -> None:
    judgement = judge(made(0), SERVER)
    assert judgement.verdict is Verdict.INVALID
    assert judgement.completed_tokens_per_s == 0


def test_single_tokens_are_warned_of_and_counted_as_loadgen_counts_them() -> None:
    judgement = judge(made(1000, tokens=1), SERVER)
    assert judgement.tokens == 0
    assert "1000 responses of one token" in judgement.warnings[0]


SINGLE = Rules(
    Mode.SINGLE_STREAM,
    percentile=0.9,
    min_duration_ns=0,
    min_queries=1,
    token_latencies=False,
)


def single(latencies_ms: list[float]) -> Log:
    ns = (np.array(latencies_ms) * MS).astype(np.int64)
    starts = np.concatenate(([0], np.cumsum(ns)[:-1]))
    return Log.made(starts, starts + ns, starts + ns, np.ones(len(ns), dtype=np.int64))


def test_single_stream_reports_the_latency_below_the_allowed_misses() -> None:
    # 100 queries at p90 allow 3: the estimate of AMD's published run was sorted[97] of 100.
    judgement = judge(single([float(i + 1) for i in range(100)]), SINGLE)
    assert judgement.verdict is Verdict.VALID
    assert judgement.estimate_ns == 98 * MS
    assert judgement.discarded == 2
    assert judgement.estimate99_ns is None


def test_single_stream_needs_64_queries() -> None:
    assert whats(judge(single([1.0] * 63), SINGLE)) == {"early_stopping_latency"}
    assert judge(single([1.0] * 64), SINGLE).verdict is Verdict.VALID


def test_single_stream_ignores_a_late_generator_and_counts_duration_at_the_last_start() -> None:
    rules = Rules(
        Mode.SINGLE_STREAM,
        percentile=0.9,
        min_duration_ns=6400 * MS,
        min_queries=1,
        token_latencies=False,
    )
    assert whats(judge(single([100.0] * 64), rules)) == {"min_duration"}
    assert judge(single([100.0] * 65), rules).verdict is Verdict.VALID


def test_offline_divides_by_the_last_completion() -> None:
    rules = Rules(Mode.OFFLINE, min_duration_ns=10 * NS, min_queries=1)
    log = made(640, gap_ms=0)
    log.rows["done"][5] = 16 * NS
    judgement = judge(log, rules)
    assert judgement.verdict is Verdict.VALID
    assert judgement.completed_samples_per_s == 40
    assert judgement.completed_tokens_per_s == 640 * 51 / 16
    log.rows["done"][5] = 9 * NS
    assert whats(judge(log, rules)) == {"min_duration"}


def published(qps: float, count: int, window_s: float, tokens: int) -> Log:
    """Make a log with the published window and token count of one of AMD's runs."""
    scheduled = np.linspace(0, count / qps * NS, count).astype(np.int64)
    first = scheduled + MS
    done = np.minimum(first + MS, round(window_s * NS))
    done[-1] = round(window_s * NS)
    share = np.full(count, tokens // count)
    share[: tokens - int(share.sum())] += 1
    return Log.made(scheduled, first, np.maximum(done, first + 1), share)


def test_a_published_run_gives_its_published_rates() -> None:
    # AMD, 8x MI355X, llama2-70b Interactive: 172,032 queries, 260.104 samples/s, 73,608.25 tok/s.
    window_s = 172_031 / 260.104
    tokens = round(73_608.25 * window_s)
    rules = Rules(Mode.SERVER, ttft_ns=450 * MS, tpot_ns=40 * MS, late_p99_ns=None)
    judgement = judge(published(263.64, 172_032, window_s, tokens), rules)
    assert judgement.completed_samples_per_s == pytest.approx(260.104, abs=5e-4)
    assert judgement.completed_tokens_per_s == pytest.approx(73_608.25, abs=5e-3)
    assert judgement.scheduled_samples_per_s == pytest.approx(263.64, abs=5e-3)


def endpoint(rng: np.random.Generator, share_over: float, count: int) -> Log:
    """Draw a run of an endpoint whose true share of queries over each limit is known."""
    scheduled = (np.arange(count) * 100 * MS).astype(np.int64)
    spread = 0.3
    quantile = float(norm.isf(share_over))
    ttft = 450 * MS * np.exp(spread * (rng.standard_normal(count) - quantile))
    tpot = 40 * MS * np.exp(spread * (rng.standard_normal(count) - 4.5))
    first = scheduled + ttft.astype(np.int64)
    done = first + (tpot * 50).astype(np.int64)
    return Log.made(scheduled, first, done, np.full(count, 51))


@pytest.mark.parametrize("count", [1000, 6396])
def test_false_verdicts_near_the_limit_are_as_rare_as_promised(count: int) -> None:
    """1,000 endpoints that just miss the promise, and 1,000 that keep it by what n can tell.

    With the true share over the limit at 1 % a run may be VALID with a probability of 1 % at most.
    With so few over it that the allowed misses suffice in 99 % of runs, 1 % may be INVALID. Both
    are binomial, so the counts have a margin of three standard deviations.
    """
    rng = np.random.default_rng(60)
    rules = Rules(
        Mode.SERVER, ttft_ns=450 * MS, tpot_ns=40 * MS, min_duration_ns=0, late_p99_ns=None
    )
    allowed = early_stopping.most_over(count, 0.99)
    shares = np.linspace(0, 0.01, 100_001)[1:]
    safe = float(shares[binom.cdf(allowed, count, shares) >= 0.99][-1])
    bad = [judge(endpoint(rng, 0.01, count), rules).verdict for _ in range(1000)]
    good = [judge(endpoint(rng, safe, count), rules).verdict for _ in range(1000)]
    assert bad.count(Verdict.VALID) <= 10 + 3 * math.sqrt(9.9)
    assert good.count(Verdict.INVALID) <= 10 + 3 * math.sqrt(9.9)
    told = f"false VALID {bad.count(Verdict.VALID)}, INVALID {good.count(Verdict.INVALID)}"
    print(f"n={count}: {told} of 1000 each; told apart down to {safe:.4%}")
