"""Do two runs agree within a tolerance?"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loadtest import results

AGREE, DIFFER, INCOMPARABLE = 0, 1, 2


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure of both runs; `difference` is relative to the first, None where it is not told."""

    name: str
    first: float | None
    second: float | None

    @property
    def difference(self) -> float | None:
        """Give (second - first) / first."""
        if self.first is None or self.second is None or self.first == 0:
            return None
        return (self.second - self.first) / self.first


@dataclass(frozen=True, slots=True)
class Comparison:
    """Whether two runs agree: same verdict, headline within the tolerance."""

    agree: bool
    headline: Figure
    others: tuple[Figure, ...]
    reasons: tuple[str, ...]
    unlike: tuple[str, ...]


def compare(first: Mapping[str, Any], second: Mapping[str, Any], *, tolerance: float) -> Comparison:
    """Compare two summaries. `unlike` tells in what they did not test the same."""
    headline = Figure(
        first["headline"]["metric"], first["headline"]["value"], second["headline"]["value"]
    )
    reasons = []
    if first["verdict"] != second["verdict"]:
        reasons.append(f"verdicts differ: {first['verdict']} and {second['verdict']}")
    change = headline.difference
    if change is None or abs(change) > tolerance:
        told = "not known" if change is None else f"{change:+.2%}"
        reasons.append(f"{headline.name} differs by {told}, tolerance {tolerance:.2%}")
    others = [
        Figure(f"{table} p99", _p99(first, table), _p99(second, table))
        for table in ("ttft_ms", "tpot_ms", "latency_ms")
    ]
    return Comparison(not reasons, headline, tuple(others), tuple(reasons), _unlike(first, second))


def _p99(summary: Mapping[str, Any], table: str) -> float | None:
    row = summary.get(table)
    return None if row is None else row["p99"]


def _unlike(first: Mapping[str, Any], second: Mapping[str, Any]) -> tuple[str, ...]:
    pairs = (
        ("scenario", first["scenario"]["name"], second["scenario"]["name"]),
        ("model", first["scenario"]["model"], second["scenario"]["model"]),
        ("headline", first["headline"]["metric"], second["headline"]["metric"]),
        ("limits", first["limits"], second["limits"]),
        ("dataset", first["dataset"]["sha256"], second["dataset"]["sha256"]),
        ("schedule", first["schedule"]["sha256"], second["schedule"]["sha256"]),
    )
    return tuple(name for name, one, other in pairs if one != other)


def main(argv: Sequence[str]) -> int:
    """Compare two directories: exit 0 they agree, 1 they differ, 2 not comparable."""
    parser = argparse.ArgumentParser(prog="sluice certify compare")
    parser.add_argument("first", type=Path)
    parser.add_argument("second", type=Path)
    parser.add_argument("--tolerance", type=float, default=0.04, help="relative, of the headline")
    options = parser.parse_args(argv)
    try:
        first = results.read_summary(options.first)
        second = results.read_summary(options.second)
    except (OSError, ValueError) as error:
        print(f"certify compare: {error}", file=sys.stderr)
        return INCOMPARABLE
    found = compare(first, second, tolerance=options.tolerance)
    for figure in (found.headline, *found.others):
        if figure.first is not None or figure.second is not None:
            change = "" if figure.difference is None else f"{figure.difference:+.2%}"
            print(f"{figure.name:24} {_told(figure.first)} {_told(figure.second)} {change:>9}")
    if {"scenario", "model", "headline", "limits"} & set(found.unlike):
        print(f"not comparable: they differ in {', '.join(found.unlike)}")
        return INCOMPARABLE
    for name in found.unlike:
        print(f"note: not the same {name}")
    for text in found.reasons:
        print(f"- {text}")
    print(f"{'agree' if found.agree else 'differ'} (tolerance {options.tolerance:.2%})")
    return AGREE if found.agree else DIFFER


def _told(value: float | None) -> str:
    return f"{'-':>14}" if value is None else f"{value:14.4f}"
