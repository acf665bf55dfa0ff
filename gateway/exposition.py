"""What do the metrics of several processes say together?

Counters and histograms are added up, those of processes that have ended included, so that no sum
ever falls. Gauges are of what the processes share (replicas, slots, who waits): each tells the same
but for its age, and the greatest holds. Of exemplars the newest holds.

Processes tell each other in OpenMetrics, which has exemplars; who asks gets that or the older text
format, as `Accept` says.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.openmetrics import exposition as openmetrics

EOF = b"# EOF\n"
# A sample: its name with its labels, in whose values anything may stand; value; instant; exemplar.
_SAMPLE = re.compile(
    r'([a-zA-Z_:][\w:]*(?:\{(?:[^"}]|"(?:[^"\\]|\\.)*")*\})?) (\S+)(?: [\d.e+-]+)?(?: # (\{.*))?'
)


class Form(Enum):
    """How metrics are written; the value is the content type."""

    TEXT = CONTENT_TYPE_LATEST
    OPENMETRICS = openmetrics.CONTENT_TYPE_LATEST

    @classmethod
    def accepted(cls, accept: str) -> "Form":
        """Choose by an `Accept` header: OpenMetrics for who names it, as Prometheus does."""
        return cls.OPENMETRICS if "application/openmetrics-text" in accept else cls.TEXT


@dataclass(slots=True)
class Family:
    """One metric: its type and text; values by name and labels as written, exemplars likewise."""

    kind: str = "unknown"
    text: str = ""
    values: dict[str, float] = field(default_factory=dict)
    exemplars: dict[str, str] = field(default_factory=dict)


Families = dict[str, Family]


def tell(registry: CollectorRegistry, form: Form) -> bytes:
    """Write what is in a registry."""
    if form is Form.TEXT:
        return generate_latest(registry)
    written: bytes = openmetrics.generate_latest(registry)  # type: ignore[no-untyped-call]
    return written


def joined(parts: Iterable[bytes], form: Form) -> bytes:
    """Put texts of different metrics together: in OpenMetrics only the last one has an end."""
    text = b"".join(part.removesuffix(EOF) for part in parts)
    return text + EOF if form is Form.OPENMETRICS else text


def read(text: str) -> Families:
    """Read OpenMetrics as prometheus_client writes it."""
    families: Families = {}
    family = Family()
    for line in text.split("\n"):
        if line.startswith(("# HELP ", "# TYPE ")):
            name, _, rest = line[7:].partition(" ")
            family = families.setdefault(name, Family())
            if line.startswith("# HELP "):
                family.text = rest
            else:
                family.kind = rest
        elif found := _SAMPLE.fullmatch(line):
            sample, value, exemplar = found.groups()
            family.values[sample] = float(value)
            if exemplar is not None:
                family.exemplars[sample] = exemplar
    return families


def add_up(parts: Iterable[Families]) -> Families:
    """Give the metrics of all parts together."""
    total: Families = {}
    for part in parts:
        for name, family in part.items():
            into = total.setdefault(name, Family(family.kind, family.text))
            for sample, value in family.values.items():
                before = into.values.get(sample)
                if before is None:
                    into.values[sample] = value
                elif into.kind == "gauge":
                    into.values[sample] = max(before, value)
                else:
                    into.values[sample] = before + value
            for sample, exemplar in family.exemplars.items():
                known = into.exemplars.get(sample)
                if known is None or _at(known) < _at(exemplar):
                    into.exemplars[sample] = exemplar
    return total


def lasting(part: Families) -> Families:
    """Give what still counts of a process that has ended."""
    return {name: family for name, family in part.items() if family.kind != "gauge"}


def write(families: Families, form: Form = Form.OPENMETRICS) -> str:
    """Write them; the older format has no exemplars, and names a counter with its ending."""
    lines: list[str] = []
    is_open = form is Form.OPENMETRICS
    for name, family in families.items():
        shown = f"{name}_total" if family.kind == "counter" and not is_open else name
        kind = "untyped" if family.kind == "unknown" and not is_open else family.kind
        lines += [f"# HELP {shown} {family.text}", f"# TYPE {shown} {kind}"]
        for sample, value in family.values.items():
            exemplar = family.exemplars.get(sample) if is_open else None
            lines.append(f"{sample} {value!r}" + (f" # {exemplar}" if exemplar else ""))
    if is_open:
        lines.append(EOF.decode().strip())
    return "\n".join(lines) + "\n" if lines else ""


def _at(exemplar: str) -> float:
    """Give an exemplar's instant, Unix seconds; 0 without one."""
    words = exemplar.rpartition("}")[2].split()
    return float(words[1]) if len(words) > 1 else 0.0
