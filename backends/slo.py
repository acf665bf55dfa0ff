"""What is promised to a class of calls?"""

from dataclasses import dataclass
from enum import StrEnum

RTT_SHARE = 0.25  # of a TTFT limit that the way to another site may take


@dataclass(frozen=True, slots=True)
class Targets:
    """The limits that a class promises for one model, at `percentile` of all offered calls.

    `ttft_s` runs from the call's arrival to its first token; `tpot_s` is the mean time per
    output token after the first; `deadline_s` from arrival to the last token. None: no promise.
    """

    ttft_s: float | None = None
    tpot_s: float | None = None
    deadline_s: float | None = None
    percentile: float = 0.99


class WhenLate(StrEnum):
    """What becomes of a call whose first token would come too late: firm and soft deadlines."""

    REFUSE = "refuse"  # it is told at once, with a time at which to come back
    SERVE = "serve"  # it is served behind all calls that can still be in time


@dataclass(frozen=True, slots=True)
class Class:
    """A named promise. Lower `rank` is served first; `patience_s` bounds a wait in the queue.

    `demote_to` names the class under which a call goes on that this one cannot keep; None: such a
    call is refused, or served late (`when_late`). `hedges`: a first byte that is late is asked of a
    second replica too.
    """

    name: str
    rank: int
    default: Targets = Targets()
    by_model: tuple[tuple[str, Targets], ...] = ()
    patience_s: float = 30.0
    demote_to: str | None = None
    hedges: bool = False
    when_late: WhenLate = WhenLate.REFUSE

    def targets(self, model: str) -> Targets:
        """The promise for a model."""
        for name, targets in self.by_model:
            if name == model:
                return targets
        return self.default


# MLPerf Inference v6.0, p99 limits of the Server and Interactive scenarios.
MLPERF_CLASSES = (
    Class(
        "interactive",
        rank=0,
        default=Targets(ttft_s=0.45, tpot_s=0.04),
        by_model=(
            ("llama2-70b", Targets(ttft_s=0.45, tpot_s=0.04)),
            ("gpt-oss-120b", Targets(ttft_s=2.0, tpot_s=0.015)),
        ),
        patience_s=10.0,
    ),
    Class(
        "server",
        rank=1,
        default=Targets(ttft_s=2.0, tpot_s=0.2),
        by_model=(
            ("llama2-70b", Targets(ttft_s=2.0, tpot_s=0.2)),
            ("gpt-oss-120b", Targets(ttft_s=3.0, tpot_s=0.08)),
        ),
        patience_s=30.0,
    ),
    Class("offline", rank=2, default=Targets(deadline_s=86_400.0), patience_s=600.0),
)
