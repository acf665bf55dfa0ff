"""Of all that was offered, how much was answered within its promise, and when was it worst?

Beyond MLPerf: a refusal or an error is a miss, and the rate counts over every scheduled query.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from loadtest import figures
from loadtest.records import Log
from loadtest.rules import Rules

NS = 1_000_000_000
_LEAST_IN_A_MINUTE = 10


@dataclass(frozen=True, slots=True)
class Share:
    """Attainment of one group of queries; goodput counts attained queries and tokens per second."""

    offered: int
    attained: int
    goodput_per_s: float
    goodput_tokens_per_s: float

    @property
    def attainment(self) -> float:
        """Give the attained share, 0 to 1; 1 when nothing was offered."""
        return self.attained / self.offered if self.offered else 1.0


@dataclass(frozen=True, slots=True)
class Minute:
    """The minute (by scheduled start) with the lowest attainment."""

    start_s: float
    offered: int
    attained: int


@dataclass(frozen=True, slots=True)
class Attainment:
    """Attainment as a whole, by class and by tenant, and the worst minute."""

    overall: Share
    by_group: Mapping[str, Share]
    by_tenant: Mapping[str, Share]
    worst_minute: Minute | None


def attained(log: Log, rules: Rules) -> NDArray[np.bool_]:
    """Tell which queries were answered in full and within every limit, shape (n,)."""
    good = log.ok.copy()
    for values, limit in (
        (figures.first_token(log), rules.ttft_ns),
        (figures.per_token(log), rules.tpot_ns),
        (figures.latency(log), rules.latency_ns),
    ):
        if limit is not None:
            good &= values <= limit
    return good


def measure(
    log: Log,
    rules: Rules,
    *,
    offered: int,
    window_s: float,
    groups: Sequence[str] = (),
    tenants: Sequence[str] = (),
    group_rules: Mapping[str, Rules] | None = None,
) -> Attainment:
    """Measure attainment; `offered` counts scheduled queries, with or without a record.

    `group_rules` replaces the limits for the named groups. `window_s`: the time goodput is over.
    """
    good = attained(log, rules)
    codes = log.column("group")
    for name, own in (group_rules or {}).items():
        if name in groups:
            mine = codes == list(groups).index(name)
            good = np.where(mine, attained(log, own), good)
    tokens = log.column("tokens")

    def share(chosen: NDArray[np.bool_], total: int) -> Share:
        hit = chosen & good
        seconds = window_s if window_s > 0 else 1.0
        count = int(hit.sum())
        return Share(total, count, count / seconds, float(tokens[hit].sum()) / seconds)

    def split(field: str, names: Sequence[str]) -> dict[str, Share]:
        column = log.column(field)
        chosen = {name: column == code for code, name in enumerate(names)}
        return {name: share(mask, int(mask.sum())) for name, mask in chosen.items()}

    every = np.ones(len(log), dtype=np.bool_)
    return Attainment(
        overall=share(every, max(offered, len(log))),
        by_group=split("group", groups) if len(groups) > 1 else {},
        by_tenant=split("tenant", tenants) if len(tenants) > 1 else {},
        worst_minute=_worst_minute(log, good),
    )


def over_time(
    log: Log, good: NDArray[np.bool_], bin_s: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Give bin starts (s) and the attained share of each bin, NaN where nothing was offered."""
    scheduled = log.column("scheduled") / NS
    count = int(scheduled.max(initial=0) // bin_s) + 1
    which = (scheduled // bin_s).astype(np.int64)
    offered = np.bincount(which, minlength=count).astype(np.float64)
    hit = np.bincount(which, weights=good.astype(np.float64), minlength=count)
    share = np.divide(hit, offered, out=np.full(count, np.nan), where=offered > 0)
    return np.arange(count, dtype=np.float64) * bin_s, np.asarray(share, dtype=np.float64)


def _worst_minute(log: Log, good: NDArray[np.bool_]) -> Minute | None:
    """Slide a minute over the schedule, starting at each query."""
    starts = log.column("scheduled")
    if len(starts) == 0:
        return None
    ends = np.searchsorted(starts, starts + 60 * NS, side="left")
    hits = np.concatenate(([0], np.cumsum(good)))
    offered = ends - np.arange(len(starts))
    inside = hits[ends] - hits[:-1]
    enough = offered >= min(_LEAST_IN_A_MINUTE, len(starts))
    # Only whole minutes: a window that the end of the run cuts off says little.
    whole = starts + 60 * NS <= max(int(starts[-1]), int(starts[0]) + 60 * NS)
    usable = np.flatnonzero(enough & whole)
    if len(usable) == 0:
        usable = np.array([0])
    worst = usable[np.argmin(inside[usable] / offered[usable])]
    return Minute(float(starts[worst]) / NS, int(offered[worst]), int(inside[worst]))
