"""What does a search cost, and how far from the truth is the rate that it finds?

    python -m bench.certify.search --fleets 200

Fleets in virtual time: below the knee the upper latencies rise until exactly the permitted share is
over the limit at the knee; beyond it the queue grows. Knee, spread of latencies and starting rate
are drawn. Cost is told as a share of whole runs at every rate of the bracket, a precision apart.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import norm

from loadtest.judgement import Verdict
from loadtest.records import Log
from loadtest.rules import Mode, Rules
from loadtest.search import Found, Probe, find
from loadtest.sequential import Caution, Outlook, outlook
from loadtest.verdict import judge

MS = 1_000_000
NS = 1_000_000_000
WHOLE_S = 600.0
PRECISION = 0.02
LOOK_S = 5
RULES = Rules(
    Mode.SERVER,
    ttft_ns=450 * MS,
    tpot_ns=40 * MS,
    min_duration_ns=round(WHOLE_S * 0.9 * NS),
    late_p99_ns=None,
)


@dataclass(frozen=True, slots=True)
class Fleet:
    """A fleet with a known limit: `knee` (queries/s), `spread` (of the logarithm of TTFT)."""

    knee: float
    spread: float = 0.1

    def log(self, rng: np.random.Generator, qps: float, seconds: float) -> Log:
        """Draw a run at a rate: exactly 1 % of queries are over the TTFT's limit at the knee."""
        count = int(qps * seconds)
        scheduled = np.sort(rng.uniform(0, seconds * NS, count)).astype(np.int64)
        busy = qps / self.knee
        noise = self.spread * (rng.standard_normal(count) - norm.isf(0.01))
        ttft = 450 * MS * busy**2 * np.exp(noise)
        if busy > 1:
            ttft += (busy - 1) * scheduled
        first = scheduled + ttft.astype(np.int64)
        return Log.made(scheduled, first, first + 50 * 30 * MS, np.full(count, 51))


def search(fleet: Fleet, start_qps: float, rng: np.random.Generator) -> Found:
    """Search as it is done live: a probe is looked at again and again, and ends when clear."""

    def try_rate(qps: float, whole: bool) -> Probe:
        log = fleet.log(rng, qps, WHOLE_S)
        if not whole:
            done, scheduled = log.column("done"), log.column("scheduled")
            for second in range(LOOK_S, int(WHOLE_S), LOOK_S):
                seen = outlook(log.where(done <= second * NS), RULES, second, Caution())
                if seen is not Outlook.OPEN:
                    offered = int((scheduled <= second * NS).sum())
                    return Probe(qps, seen is Outlook.VALID, offered, False)
        return Probe(qps, judge(log, RULES).verdict is Verdict.VALID, len(log), whole)

    return find(try_rate, start_qps, precision=PRECISION, whole_s=WHOLE_S)


def main(argv: Sequence[str] | None = None) -> int:
    """Print how errors and costs are spread over many fleets."""
    parser = argparse.ArgumentParser(prog="python -m bench.certify.search")
    parser.add_argument("--fleets", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(argv)
    rng = np.random.default_rng(options.seed)
    errors, costs, unfound = [], [], 0
    for _ in range(options.fleets):
        fleet = Fleet(knee=float(rng.uniform(8, 60)), spread=float(rng.uniform(0.05, 0.3)))
        found = search(fleet, fleet.knee * float(np.exp(rng.uniform(-1.2, 1.2))), rng)
        costs.append(found.queries / found.sweep_queries)
        if found.qps is None:
            unfound += 1
            continue
        errors.append(found.qps / fleet.knee - 1)
    print(f"{options.fleets} fleets, {unfound} without a confirmed rate")
    for name, values, bar in (("error", errors, 0.03), ("cost of a sweep's", costs, 0.25)):
        seen = np.array(values)
        met = float((np.abs(seen) <= bar).mean())
        print(
            f"{name:18} median {np.median(seen):+.2%}  p5 {np.quantile(seen, 0.05):+.2%}"
            f"  p95 {np.quantile(seen, 0.95):+.2%}  worst {seen[np.abs(seen).argmax()]:+.2%}"
            f"  within {bar:.0%}: {met:.1%}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
