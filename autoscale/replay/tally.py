"""What came of a replay's calls?"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from backends.simulated.sequences import Sequence as EngineSequence
from backends.slo import Targets


@dataclass(frozen=True, slots=True)
class Ended:
    """What came of one call; one that was refused has neither times nor tokens."""

    kept: bool
    refused: bool = False
    ttft_s: float = 0.0
    tpot_s: float = 0.0
    tokens: int = 0
    offered_at: float = 0.0
    late: bool = False

    @classmethod
    def served(
        cls,
        sequence: EngineSequence,
        targets: Targets,
        *,
        due: float,
        ended_at: float,
        offered_at: float = 0.0,
        rtt_s: float = 0.0,
        late: bool = False,
    ) -> "Ended":
        """Hold what an engine did of it against what was promised; `due` is its first token's; the
        request's way there and the answer's way back take `rtt_s` together.
        """
        output, first_at = sequence.output_tokens, sequence.first_token_at
        arrived_at = due - targets.ttft_s if targets.ttft_s is not None else first_at + rtt_s
        ttft_s = first_at + rtt_s - arrived_at
        tpot_s = (ended_at - first_at) / (output - 1) if output > 1 else 0.0
        kept = (targets.ttft_s is None or ttft_s <= targets.ttft_s) and (
            targets.tpot_s is None or tpot_s <= targets.tpot_s
        )
        return cls(kept, False, ttft_s, tpot_s, output, offered_at, late)


@dataclass(frozen=True, slots=True)
class Tally:
    """What came of the offered calls of a class; `late` were served behind all that could be in
    time (`when_late: serve`).
    """

    offered: int = 0
    kept: int = 0
    refused: int = 0
    late: int = 0
    tokens: int = 0
    ttft_p99_s: float = 0.0
    tpot_p99_s: float = 0.0

    @property
    def attainment(self) -> float:
        """Kept over offered; a refusal is a miss."""
        return self.kept / self.offered if self.offered else 1.0

    @classmethod
    def of(cls, ended: Sequence[Ended]) -> "Tally":
        """Sum up a class."""
        served = [each for each in ended if not each.refused]
        return cls(
            offered=len(ended),
            kept=sum(each.kept for each in ended),
            refused=sum(each.refused for each in ended),
            late=sum(each.late for each in ended),
            tokens=sum(each.tokens for each in ended),
            ttft_p99_s=_p99([each.ttft_s for each in served]),
            tpot_p99_s=_p99([each.tpot_s for each in served]),
        )


@dataclass(frozen=True, slots=True)
class Replayed:
    """The whole: per class, unit-seconds paid, actions, calls that never ended, and the share of
    the calls of the worst ten minutes that were kept.
    """

    classes: Mapping[str, Tally]
    unit_s: float  # weighted by what units of a site cost
    actions: int
    dropped: int
    lasted_s: float
    worst_ten_minutes: float
    work_by_tick: list[float] = field(repr=False)
    most_by_site: Mapping[str, int] = field(default_factory=dict)


def worst_window(ended: Iterable[Ended], *, length_s: float = 600.0) -> float:
    """Give the share kept in the worst window, by when calls were offered; 1 without any."""
    windows: dict[int, list[bool]] = {}
    for each in ended:
        windows.setdefault(int(each.offered_at // length_s), []).append(each.kept)
    return min((sum(kept) / len(kept) for kept in windows.values()), default=1.0)


def _p99(values: Sequence[float]) -> float:
    return float(np.quantile(values, 0.99)) if values else 0.0
