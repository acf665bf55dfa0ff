"""What is said of a run?"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from loadtest.figures import Distribution
from loadtest.rules import Rules


class Verdict(StrEnum):
    """What certify says of a run."""

    VALID = "VALID"
    INVALID = "INVALID"
    INCOMPLETE = "INCOMPLETE"
    SMOKE = "SMOKE"


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a run is not valid. `source`: "loadgen", or "sluice" for rules that LoadGen does not
    have.
    """

    source: str
    what: str
    text: str


@dataclass(frozen=True, slots=True)
class EarlyStopping:
    """The outcome for one latency: `over` of `count` over the limit; `more` queries would be
    needed.
    """

    what: str
    met: bool
    count: int
    over: int
    needed: int

    @property
    def more(self) -> int:
        """Give how many further queries, all within the limit, would make the run pass."""
        return max(0, self.needed - self.count)


@dataclass(frozen=True, slots=True)
class Judgement:
    """Everything that is said of a run; latencies in nanoseconds, rates per second."""

    verdict: Verdict
    reasons: tuple[Reason, ...]
    warnings: tuple[str, ...]
    rules: Rules
    queries: int
    answered: int
    outcomes: dict[str, int]
    tokens: int
    duration_s: float
    window_s: float
    latency: Distribution | None
    ttft: Distribution | None
    tpot: Distribution | None
    lateness: Distribution | None
    early_stopping: tuple[EarlyStopping, ...]
    estimate_ns: int | None
    estimate99_ns: int | None
    discarded: int
    completed_samples_per_s: float
    completed_tokens_per_s: float
    scheduled_samples_per_s: float
    perf_constraints_met: bool = True
    min_duration_met: bool = True
    min_queries_met: bool = True
    early_stopping_met: bool = True
    effective_percentile: float = 0.0
    least_queries: int = 0
