"""How often is a verdict wrong, at a true share of misses that is known?

    python -m bench.certify.verdicts --queries 1000 6396 --endpoints 20000

A run's misses are drawn query by query, and the run is judged as any other. Beside the counts
stands the calculation: misses are binomial, so with at most t of n permitted a run passes with
probability F(t; n, share) for each limited latency, and two independent ones with F * F. Shares:
1 % (a VALID is false), and the largest at which a run passes in 99 % of cases (an INVALID is then
false, by the stated confidence), once for one latency near its limit and once for both.
"""

import argparse
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq
from scipy.stats import binom

from loadtest import early_stopping
from loadtest.judgement import Verdict
from loadtest.records import Log
from loadtest.rules import Mode, Rules
from loadtest.verdict import judge

MS = 1_000_000
RULES = Rules(Mode.SERVER, ttft_ns=450 * MS, tpot_ns=40 * MS, min_duration_ns=0, late_p99_ns=None)
TOKENS = 51
PROMISE = 0.01  # the share that a p99 permits
CONFIDENCE = early_stopping.CONFIDENCE


@dataclass(frozen=True, slots=True)
class Case:
    """Endpoints whose true share over each of `latencies` (1: TTFT, 2: TPOT too) is `share`."""

    queries: int
    share: float
    latencies: int

    @property
    def passes(self) -> float:
        """Give the probability that such a run is VALID."""
        allowed = early_stopping.most_over(self.queries, 1 - PROMISE)
        return float(binom.cdf(allowed, self.queries, self.share)) ** self.latencies


def safe_share(queries: int, latencies: int) -> float:
    """Give the largest true share with which a run is VALID at the stated confidence.

    Raises ValueError for so few queries that no run of them is VALID.
    """
    if early_stopping.most_over(queries, 1 - PROMISE) < 0:
        raise ValueError(f"{queries} queries can never be VALID")
    return float(
        brentq(lambda share: Case(queries, share, latencies).passes - CONFIDENCE, 1e-9, PROMISE)
    )


def draw(rng: np.random.Generator, case: Case) -> Log:
    """Draw one run: a query is over a limit with the case's share, else well within it."""
    scheduled = np.arange(case.queries, dtype=np.int64) * 100 * MS
    over_first = rng.random(case.queries) < case.share
    over_token = rng.random(case.queries) < (case.share if case.latencies == 2 else 0.0)
    first = scheduled + np.where(over_first, 460 * MS, 400 * MS)
    done = first + np.where(over_token, 41 * MS, 36 * MS) * (TOKENS - 1)
    return Log.made(scheduled, first, done, np.full(case.queries, TOKENS))


def count_valid(rng: np.random.Generator, case: Case, endpoints: int) -> int:
    """Judge so many endpoints; tell how many are VALID."""
    verdicts = (judge(draw(rng, case), RULES).verdict for _ in range(endpoints))
    return sum(verdict is Verdict.VALID for verdict in verdicts)


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m bench.certify.verdicts")
    parser.add_argument("--queries", type=int, nargs="+", default=[1000, 6396])
    parser.add_argument("--endpoints", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=60)
    options = parser.parse_args(argv)
    rng = np.random.default_rng(options.seed)
    print("queries  latencies  true share  wrong verdict   calculated  counted   +- (3 sigma)")
    for queries in options.queries:
        for latencies in (1, 2):
            for share, wrong in (
                (PROMISE, Verdict.VALID),
                (safe_share(queries, latencies), Verdict.INVALID),
            ):
                case = Case(queries, share, latencies)
                valid = count_valid(rng, case, options.endpoints)
                seen, known = valid / options.endpoints, case.passes
                if wrong is Verdict.INVALID:
                    seen, known = 1 - seen, 1 - known
                noise = 3 * math.sqrt(known * (1 - known) / options.endpoints)
                print(
                    f"{queries:7} {latencies:10} {share:11.4%}  false {wrong:8}"
                    f" {known:11.3%} {seen:8.3%} {noise:10.3%}"
                )
    return 0


if __name__ == "__main__":
    sys.exit(main())
