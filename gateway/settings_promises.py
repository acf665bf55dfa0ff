"""What may an operator set of what is promised: to classes of calls, and to tenants?"""

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from backends.slo import MLPERF_CLASSES, Class, Targets, WhenLate
from gateway.call import Quota
from gateway.settings_types import FrozenMap, Name, Seconds, Section


class TargetSettings(Section):
    """The limits promised to a class; nothing given: no promise."""

    ttft_ms: float | None = Field(None, gt=0, description="Time to the first token.")
    tpot_ms: float | None = Field(None, gt=0, description="Time per output token after the first.")
    deadline_s: float | None = Field(None, gt=0, description="Time to the last token.")
    percentile: float = Field(
        0.99, gt=0, lt=1, description="The share of calls that must keep within the limits."
    )

    def targets(self) -> Targets:
        """Give them in seconds."""
        return Targets(
            ttft_s=None if self.ttft_ms is None else self.ttft_ms / 1000,
            tpot_s=None if self.tpot_ms is None else self.tpot_ms / 1000,
            deadline_s=self.deadline_s,
            percentile=self.percentile,
        )


class ClassSettings(Section):
    """A named promise."""

    rank: int = Field(ge=0, description="Lower is served first.")
    patience_s: Seconds = Field(30.0, description="Longest wait in the queue.")
    coalesce_ms: float = Field(
        0.0,
        ge=0,
        le=1000,
        description="Chunks of a stream are gathered this long, never the first or last; 0: not.",
    )
    demote_to: Name | None = Field(
        None, description="Class under which a call goes on that this one cannot keep."
    )
    when_late: WhenLate = Field(
        WhenLate.REFUSE,
        description="A call whose first token would be late is refused, or served behind all that "
        "can be in time, for as long as `patience_s` lets it wait.",
    )
    hedge: bool = Field(
        False, description="Ask a second replica where a stream's first byte is late."
    )
    targets: FrozenMap[Name, TargetSettings] = Field(
        {}, description="Limits by model id; those under `default` hold for all other models."
    )

    def promise(self, name: str) -> Class:
        """Give the class as the rest of the code knows it."""
        targets = {key: each.targets() for key, each in self.targets.items()}
        return Class(
            name=name,
            rank=self.rank,
            default=targets.pop("default", Targets()),
            by_model=tuple(targets.items()),
            patience_s=self.patience_s,
            demote_to=self.demote_to,
            hedges=self.hedge,
            when_late=self.when_late,
        )


class TenantSettings(Section):
    """Whose calls share a budget, and how much of the fleet is theirs when all want more."""

    weight: float = Field(
        1.0, gt=0, le=1e6, description="Share of a class's slots against the other tenants'."
    )
    requests_per_min: int | None = Field(None, ge=0, description="Requests per minute.")
    tokens_per_min: int | None = Field(
        None, ge=0, description="Tokens of prompts and answers per minute."
    )
    concurrency: int | None = Field(None, ge=0, description="Calls at once.")
    tokens_per_day: int | None = Field(None, ge=0, description="Tokens per day (UTC).")
    tokens_per_month: int | None = Field(None, ge=0, description="Tokens per month (UTC).")

    def quota(self) -> Quota | None:
        """Give its limits; None where there are none."""
        return Quota(
            self.requests_per_min,
            self.tokens_per_min,
            self.concurrency,
            self.tokens_per_day,
            self.tokens_per_month,
        ).or_none()


def with_default_classes(value: object) -> object:
    """Lay what is given over MLPerf's classes, key by key; a class of another name is added."""
    if not isinstance(value, Mapping):
        return value
    known = _default_classes()
    for name, given in value.items():
        known[name] = {**known.get(name, {}), **given} if isinstance(given, Mapping) else given
    return known


def _default_classes() -> dict[str, Any]:
    """Give MLPerf's classes in the form of a file."""
    return {
        each.name: {
            "rank": each.rank,
            "patience_s": each.patience_s,
            "demote_to": each.demote_to,
            "when_late": each.when_late.value,
            "targets": {
                name: {
                    "ttft_ms": None if t.ttft_s is None else t.ttft_s * 1000,
                    "tpot_ms": None if t.tpot_s is None else t.tpot_s * 1000,
                    "deadline_s": t.deadline_s,
                    "percentile": t.percentile,
                }
                for name, t in (("default", each.default), *each.by_model)
            },
        }
        for each in MLPERF_CLASSES
    }
