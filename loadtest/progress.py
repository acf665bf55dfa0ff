"""How does a run stand, told on the terminal while it goes on?"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from typing import TextIO

import numpy as np

from loadtest import early_stopping, figures
from loadtest.plan import Plan
from loadtest.records import Column, Log
from loadtest.rules import Mode

NS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Standing:
    """A run in the middle: counts so far, and what its verdict would be of them."""

    elapsed_s: float
    expected_s: float
    offered: int
    total: int
    ended: int
    failed: int
    ttft_p99_ms: float | None
    tpot_p99_ms: float | None
    latency_p99_ms: float | None
    late_p99_ms: float | None
    course: str

    def line(self) -> str:
        """Put it on one line."""
        parts = [
            f"{_clock(self.elapsed_s)} of {_clock(self.expected_s)}",
            f"offered {self.offered}/{self.total}",
            f"served {self.ended - self.failed}",
        ]
        if self.failed:
            parts.append(f"failed {self.failed}")
        for name, value in (
            ("TTFT", self.ttft_p99_ms),
            ("TPOT", self.tpot_p99_ms),
            ("latency", self.latency_p99_ms),
        ):
            if value is not None:
                parts.append(f"{name} p99 {value:.1f} ms")
        if self.late_p99_ms is not None:
            parts.append(f"late p99 {self.late_p99_ms:.1f} ms")
        return "  ".join([*parts, self.course])


def standing(log: Log, plan: Plan, elapsed_s: float) -> Standing:
    """Sum up the queries that have ended."""
    arrivals = plan.schedule.arrivals_ns
    rules = plan.rules
    closed = plan.schedule.closed_loop
    offered = len(log) if closed else int(np.searchsorted(arrivals, max(0.0, elapsed_s) * NS))
    ttft = figures.first_token(log) if rules.token_latencies else None
    tpot = figures.per_token(log) if rules.token_latencies else None
    latency = None if rules.token_latencies else figures.latency(log)
    expected_s = rules.min_duration_ns / NS if closed else float(arrivals[-1]) / NS
    return Standing(
        elapsed_s=elapsed_s,
        expected_s=expected_s,
        offered=offered,
        total=max(rules.min_queries, len(log)) if closed else len(plan.schedule),
        ended=len(log),
        failed=int((~log.ok).sum()),
        ttft_p99_ms=_p99_ms(ttft),
        tpot_p99_ms=_p99_ms(tpot),
        latency_p99_ms=_p99_ms(latency),
        late_p99_ms=_p99_ms(figures.lateness(log)) if rules.mode is Mode.SERVER else None,
        course=course(log, plan),
    )


def course(log: Log, plan: Plan) -> str:
    """Say where the verdict is heading: by how many misses the whole run could still bear."""
    rules = plan.rules
    if rules.mode is not Mode.SERVER or len(log) == 0:
        return "running"
    if not log.ok.all():
        return "INVALID: unanswered queries"
    allowed = early_stopping.most_over(len(plan.schedule), rules.percentile)
    over = worst_over(log, plan)
    if allowed < 0:
        least = early_stopping.needed(0, rules.percentile)
        return f"too few queries for a verdict: {len(plan.schedule)} of {least}"
    if over > allowed:
        return f"INVALID: {over} over the limit, {allowed} allowed"
    if early_stopping.needed(over, rules.percentile) <= len(log):
        return f"on course for VALID ({over} of {allowed} misses)"
    return f"open ({over} of {allowed} misses)"


def worst_over(log: Log, plan: Plan) -> int:
    """Count the queries over the limit that is missed most."""
    rules = plan.rules
    pairs = [(figures.latency(log), rules.latency_ns)]
    if rules.token_latencies:
        pairs += [
            (figures.first_token(log), rules.ttft_ns),
            (figures.per_token(log), rules.tpot_ns),
        ]
    counts = [int((values > limit).sum()) for values, limit in pairs if limit is not None]
    return max(counts, default=0)


class Terminal:
    """Shows one line that is rewritten on a terminal, or a line every ten seconds elsewhere."""

    def __init__(self, stream: TextIO | None = None, *, quiet: bool = False) -> None:
        self._stream = stream or sys.stderr
        self._quiet = quiet
        self._rewrites = self._stream.isatty()
        self._shown_at = -1e9

    def show(self, text: str) -> None:
        """Show how things stand."""
        now = time.monotonic()
        if self._quiet or now - self._shown_at < (0.5 if self._rewrites else 10.0):
            return
        self._shown_at = now
        if self._rewrites:
            self._stream.write(f"\r\x1b[2K{text}")
        else:
            self._stream.write(f"{text}\n")
        self._stream.flush()

    def tell(self, text: str) -> None:
        """Write a line that stays."""
        if self._quiet:
            return
        self._stream.write(f"\r\x1b[2K{text}\n" if self._rewrites else f"{text}\n")
        self._stream.flush()


def _p99_ms(values: Column | None) -> float | None:
    if values is None or len(values) == 0:
        return None
    value = int(np.partition(values, int(len(values) * 0.99))[int(len(values) * 0.99)])
    return None if value >= figures.UNANSWERED_NS else value / 1e6


def _clock(seconds: float) -> str:
    whole = max(0, int(seconds))
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"
