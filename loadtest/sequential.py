"""Is a run's outcome clear before its end?

A sequential test on the share of queries over a limit. It is looked at often, so the error of one
look is divided by the number of looks. It is for choosing the next rate of a search; a verdict
always comes from a whole run.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from scipy.special import betainc

from loadtest import early_stopping, figures
from loadtest.records import Column, Log
from loadtest.rules import Rules


class Outlook(StrEnum):
    """What can be said so far."""

    VALID = "VALID"
    INVALID = "INVALID"
    OPEN = "OPEN"


@dataclass(frozen=True, slots=True)
class Caution:
    """How sure one wants to be.

    `error`: probability of calling INVALID what is not, over all looks. `looks`: how often it is
    looked at most. `settle_s`: nothing is called VALID before, so that queues have time to grow,
    nor before `lifetimes` times the upper decile of the answers' whole latency: until then the
    endpoint holds fewer calls than it will.
    `drift`: growth of the late over the early queries' upper latencies beyond which a run is not
    called VALID early. `failures`: so many queries that were not answered in full are INVALID at
    once, since no whole run with one of them is VALID; a single one may have been chance.
    """

    error: float = 0.01
    looks: int = 100
    settle_s: float = 30.0
    lifetimes: float = 3.0
    drift: float = 1.25
    failures: int = 2


def outlook(log: Log, rules: Rules, elapsed_s: float, caution: Caution) -> Outlook:
    """Judge the queries that have ended so far."""
    count = len(log)
    if count == 0:
        return Outlook.OPEN
    if int((~log.ok).sum()) >= caution.failures:
        return Outlook.INVALID
    drifting = False
    for values, limit in _limited(log, rules):
        over = int((values > limit).sum())
        if _at_least(over, count, 1 - rules.percentile) < caution.error / caution.looks:
            return Outlook.INVALID
        drifting |= _drifts(values, caution.drift)
        if early_stopping.needed(over, rules.percentile) > count:
            drifting = True
    if drifting or elapsed_s < caution.settle_s or not log.ok.all():
        return Outlook.OPEN
    if elapsed_s * 1e9 < caution.lifetimes * float(np.quantile(figures.latency(log), 0.9)):
        return Outlook.OPEN
    return Outlook.VALID


def _limited(log: Log, rules: Rules) -> list[tuple[Column, int]]:
    pairs = [(figures.latency(log), rules.latency_ns)]
    if rules.token_latencies:
        pairs += [
            (figures.first_token(log), rules.ttft_ns),
            (figures.per_token(log), rules.tpot_ns),
        ]
    return [(values, limit) for values, limit in pairs if limit is not None]


def _at_least(over: int, count: int, share: float) -> float:
    """Give the probability of `over` or more of `count` when each has the probability `share`."""
    return 1.0 if over == 0 else float(betainc(over, count - over + 1, share))


def _drifts(values: Column, most: float) -> bool:
    """Compare the upper decile of the last third with that of the middle third."""
    third = len(values) // 3
    if third < 30:
        return True
    middle = np.quantile(values[third : 2 * third], 0.9)
    late = np.quantile(values[2 * third :], 0.9)
    return bool(late > most * middle)
