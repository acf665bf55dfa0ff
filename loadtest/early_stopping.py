"""How many queries are enough to say that a percentile is met?

MLPerf's early stopping: with t queries over the limit the run passes if at least h more are under
it, h the smallest with I_p(h, t + 1) < 1 - confidence (regularised incomplete beta; tolerance 0).
Source: mlcommons/inference_policies, inference_rules.adoc, appendix; loadgen/early_stopping.cc.
"""

from __future__ import annotations

from functools import lru_cache

from scipy.special import betainc

CONFIDENCE = 0.99


@lru_cache(maxsize=65536)
def least_under(over: int, percentile: float, confidence: float = CONFIDENCE) -> int:
    """Give h: how many queries under the limit `over` queries over it need.

    `percentile` and `confidence` are fractions. Raises ValueError outside (0, 1).
    """
    if not (0 < percentile < 1 and 0 < confidence < 1):
        raise ValueError(f"percentile {percentile} and confidence {confidence} are fractions")
    low, high = 1, int((over + 1) * percentile / (1 - percentile) * 6) + 1000
    while low < high:
        middle = (low + high) // 2
        if betainc(middle, over + 1, percentile) < 1 - confidence:
            high = middle
        else:
            low = middle + 1
    return low


def needed(over: int, percentile: float, confidence: float = CONFIDENCE) -> int:
    """Give the fewest queries with which a run passes that has `over` of them over the limit."""
    return least_under(over, percentile, confidence) + over


@lru_cache(maxsize=4096)
def most_over(count: int, percentile: float, confidence: float = CONFIDENCE) -> int:
    """Give the most queries of `count` that may be over the limit; -1 if even none is too many."""
    low, high = -1, count
    while low < high:
        middle = (low + high + 1) // 2
        if needed(middle, percentile, confidence) <= count:
            low = middle
        else:
            high = middle - 1
    return low


def effective_percentile(count: int, percentile: float, confidence: float = CONFIDENCE) -> float:
    """Give the share (percent) of `count` queries that must be within the limit to pass."""
    allowed = most_over(count, percentile, confidence)
    return 100.0 if count == 0 or allowed < 0 else 100.0 * (1 - allowed / count)
