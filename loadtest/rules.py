"""By which rules is a run judged?"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Mode(StrEnum):
    """LoadGen's scenarios (Interactive is Server with other limits)."""

    SERVER = "Server"
    OFFLINE = "Offline"
    SINGLE_STREAM = "SingleStream"


@dataclass(frozen=True, slots=True)
class Rules:
    """What a run must meet; limits in nanoseconds, None where there is none.

    `percentile` is a fraction. `late_p99_ns` bounds the generator's own lateness (not MLPerf's
    rule: LoadGen charges a late generator to the system under test, we refuse to judge by it).
    """

    mode: Mode
    ttft_ns: int | None = None
    tpot_ns: int | None = None
    latency_ns: int | None = None
    percentile: float = 0.99
    min_duration_ns: int = 600_000_000_000
    min_queries: int = 100
    token_latencies: bool = True
    late_p99_ns: int | None = 10_000_000
