"""Which figures does LoadGen compute from latencies, and how?

Latencies are int64 nanoseconds. Percentiles are the value at index floor(n * p) of the ascending
list, without interpolation; means are truncated integers. Source: mlcommons/inference,
loadgen/results.cc, ProcessLatencies.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from loadtest.records import NEVER, Column, Log

PERCENTILES = (0.50, 0.90, 0.95, 0.97, 0.99, 0.999)
# Stands for the latency of a query that was never answered: over every limit, last in every order.
UNANSWERED_NS = 1 << 62


@dataclass(frozen=True, slots=True)
class Distribution:
    """LoadGen's statistics of one latency, in nanoseconds; `percentiles` by fraction."""

    count: int
    least: int
    most: int
    mean: int
    percentiles: dict[float, int]
    target: int
    over: int

    @property
    def finite(self) -> bool:
        """Tell whether the target percentile was answered at all."""
        return self.target < UNANSWERED_NS


def distribution(values: Column, target: float, limit_ns: int | None) -> Distribution | None:
    """Compute the statistics of latencies; None for no latencies.

    `over` counts values strictly over the limit. Unanswered queries count in the order, not in the
    mean.
    """
    count = len(values)
    if count == 0:
        return None
    ordered = np.sort(values)
    answered = ordered[ordered < UNANSWERED_NS]
    total = int(answered.sum(dtype=np.int64))
    mean = int(total / len(answered)) if abs(total) < 1 << 52 and len(answered) else 0
    if len(answered) and abs(total) >= 1 << 52:
        mean = abs(total) // len(answered) * (1 if total >= 0 else -1)
    return Distribution(
        count=count,
        least=int(ordered[0]),
        most=int(ordered[-1]),
        mean=mean,
        percentiles={p: int(ordered[int(count * p)]) for p in PERCENTILES},
        target=int(ordered[int(count * target)]),
        over=0 if limit_ns is None else int((ordered > limit_ns).sum()),
    )


def latency(log: Log) -> Column:
    """Give completion minus schedule of each query (ns)."""
    return np.where(log.ok, log.column("done") - log.column("scheduled"), UNANSWERED_NS)


def first_token(log: Log) -> Column:
    """Give TTFT of each query: first token minus schedule (ns)."""
    known = log.ok & (log.column("first") != NEVER)
    return np.where(known, log.column("first") - log.column("scheduled"), UNANSWERED_NS)


def per_token(log: Log) -> Column:
    """Give TPOT of each query: (completion - first token) / (tokens - 1), one value a query (ns).

    LoadGen turns a count of one token into none, so its TPOT is negative there; so is ours.
    """
    known = log.ok & (log.column("first") != NEVER)
    spent = log.column("done") - log.column("first")
    steps = counted_tokens(log) - 1
    safe = np.where(steps == 0, 1, steps)
    quotient = np.where(safe < 0, -(spent // -safe), spent // safe)
    return np.where(known, quotient, UNANSWERED_NS)


def counted_tokens(log: Log) -> Column:
    """Give the tokens that LoadGen counts: those of answered queries, a single one as none."""
    tokens = log.column("tokens")
    return np.where(log.ok & (tokens > 1), tokens, 0)


def lateness(log: Log) -> Column:
    """Give how late the generator sent each query that it sent (ns)."""
    sent = log.column("sent")
    return np.asarray((sent - log.column("scheduled"))[sent != NEVER])
