"""What do the metrics of several processes say together?

Counters and histograms are added up, those of processes that have ended included, so that no sum
ever falls. Gauges are of what the processes share (replicas, slots, who waits): each tells the same
but for its age, and the greatest holds.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass(slots=True)
class Family:
    """One metric: its comment lines, and values by name and labels as they are written."""

    comments: list[str] = field(default_factory=list)
    is_gauge: bool = False
    values: dict[str, float] = field(default_factory=dict)


Families = dict[str, Family]


def read(text: str) -> Families:
    """Read Prometheus' text format as prometheus_client writes it (no instants, no exemplars)."""
    families: Families = {}
    family = Family()
    for line in text.splitlines():
        if line.startswith("# "):
            kind, name, *rest = line[2:].split(" ", 2)
            family = families.setdefault(name, Family())
            family.comments.append(line)
            if kind == "TYPE":
                family.is_gauge = rest == ["gauge"]
        elif line:
            sample, _, value = line.rpartition(" ")
            family.values[sample] = float(value)
    return families


def add_up(parts: Iterable[Families]) -> Families:
    """Give the metrics of all parts together."""
    total: Families = {}
    for part in parts:
        for name, family in part.items():
            into = total.get(name)
            if into is None:
                total[name] = Family(family.comments, family.is_gauge, dict(family.values))
                continue
            for sample, value in family.values.items():
                before = into.values.get(sample)
                if before is None:
                    into.values[sample] = value
                else:
                    into.values[sample] = max(before, value) if into.is_gauge else before + value
    return total


def lasting(part: Families) -> Families:
    """Give what still counts of a process that has ended."""
    return {name: family for name, family in part.items() if not family.is_gauge}


def write(families: Families) -> str:
    """Write Prometheus' text format."""
    lines: list[str] = []
    for family in families.values():
        lines += family.comments
        lines += [f"{sample} {value!r}" for sample, value in family.values.items()]
    return "\n".join(lines) + "\n" if lines else ""
