"""Which arrivals and lengths does a recorded trace hold?

Reads, plain or gzipped: CSV with `t_s,in_tokens,out_tokens` and, if wanted, `class,tenant` (Azure's
2023 traces, and one's own recordings), Mooncake's JSON lines (`timestamp` ms, `input_length`,
`output_length`) and ServeGen's per-client rates, from which arrivals are drawn. The format is told
by the first line.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

_WINDOW_S = 600.0  # ServeGen's rows are 10-minute windows


class TraceError(ValueError):
    """A trace that cannot be read."""


class Recorded(NamedTuple):
    """One recorded query: start (s), prompt and answer (tokens), class, tenant, prefix blocks.

    `blocks` are Mooncake's ids of 512 prompt tokens each; equal leading ids are equal text.
    """

    at_s: float
    asked: int
    answered: int
    group: str = ""
    tenant: str = ""
    blocks: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Trace:
    """Recorded queries in order of their start. `drawn`: arrivals were drawn from rates."""

    name: str
    rows: tuple[Recorded, ...]
    digest: str
    drawn: bool = False

    @property
    def offsets_s(self) -> NDArray[np.float64]:
        """Give the starts (s), shape (n,)."""
        return np.array([row.at_s for row in self.rows], dtype=np.float64)

    def window(self, start_s: float, duration_s: float | None) -> Trace:
        """Cut out a part; starts then count from `start_s`."""
        stop = math.inf if duration_s is None else start_s + duration_s
        kept = [row for row in self.rows if start_s <= row.at_s < stop]
        if not kept:
            raise TraceError(f"{self.name} has nothing between {start_s:g} and {stop:g} s")
        moved = tuple(row._replace(at_s=row.at_s - start_s) for row in kept)
        return replace(self, rows=moved)


def read(path: Path, *, seed: int = 1, horizon_s: float = 3600.0) -> Trace:
    """Read a trace; `seed` and `horizon_s` matter only where arrivals are drawn from rates.

    Raises TraceError.
    """
    if not path.exists():
        raise TraceError(f"no trace {path}")
    raw = path.read_bytes()
    text = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode("utf-8")
    drawn = False
    if text.lstrip().startswith("{"):
        rows = list(_mooncake(text.splitlines()))
    else:
        table = csv.DictReader(io.StringIO(text))
        names = set(table.fieldnames or ())
        if {"t_s", "in_tokens", "out_tokens"} <= names:
            rows = [_own(row) for row in table]
        elif {"t_s", "rate_rps", "iat_family", "iat_p1", "iat_p2"} <= names:
            rows = list(_servegen(table, seed, horizon_s))
            drawn = True
        else:
            raise TraceError(f"{path.name}: unknown columns {', '.join(sorted(names))}")
    if not rows:
        raise TraceError(f"{path.name} is empty")
    rows.sort(key=lambda row: row.at_s)
    return Trace(path.name, tuple(rows), hashlib.sha256(raw).hexdigest(), drawn)


def _own(row: Mapping[str, str]) -> Recorded:
    return Recorded(
        float(row["t_s"]),
        int(row["in_tokens"]),
        int(row["out_tokens"]),
        row.get("class") or "",
        row.get("tenant") or "",
    )


def _mooncake(lines: Iterable[str]) -> Iterator[Recorded]:
    for line in lines:
        if line.strip():
            row = json.loads(line)
            yield Recorded(
                row["timestamp"] / 1000,
                int(row["input_length"]),
                int(row["output_length"]),
                blocks=tuple(row.get("hash_ids") or ()),
            )


def _servegen(table: Iterable[dict[str, str]], seed: int, horizon_s: float) -> Iterator[Recorded]:
    """Draw each client's arrivals in its 10-minute windows: Gamma or Weibull gaps, lengths by
    quantile.
    """
    rng = np.random.default_rng(seed)
    for row in table:
        start_s = float(row["t_s"])
        if start_s >= horizon_s:
            return  # rows are ordered by window
        shape, scale = float(row["iat_p1"] or 1), float(row["iat_p2"] or 0)
        expected = float(row["rate_rps"]) * _WINDOW_S
        if scale <= 0 or expected <= 0:
            continue
        count = int(expected + 6 * math.sqrt(expected) * max(1.0, float(row["iat_cv"] or 1)) + 10)
        draws = (
            rng.weibull(shape, count) if row["iat_family"] == "W" else rng.gamma(shape, 1, count)
        )
        starts = np.cumsum(draws * scale)
        starts = starts[starts < _WINDOW_S]
        asked = _by_quantile(row, "in", rng.random(len(starts)))
        answered = _by_quantile(row, "out", rng.random(len(starts)))
        for start, one, other in zip((start_s + starts).tolist(), asked, answered, strict=True):
            yield Recorded(start, one, other)


def _by_quantile(row: dict[str, str], what: str, unit: NDArray[np.float64]) -> list[int]:
    points = [row.get(f"{what}_{name}") or "" for name in ("p50", "p90", "p99")]
    if not all(points):
        mean = float(row.get(f"{what}_mean") or 100)
        return _rounded(-mean * np.log1p(-unit))
    p50, p90, p99 = map(float, points)
    values = np.interp(unit, [0, 0.5, 0.9, 0.99, 1], [1, p50, p90, p99, p99])
    return _rounded(values)


def _rounded(values: NDArray[np.float64]) -> list[int]:
    return [max(1, round(value)) for value in values.tolist()]
