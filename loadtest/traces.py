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
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

_WINDOW_S = 600.0  # ServeGen's rows are 10-minute windows


class TraceError(ValueError):
    """A trace that cannot be read."""


@dataclass(frozen=True, slots=True, eq=False)
class Trace:
    """Recorded queries: offsets in seconds, shape (n,); lengths in tokens, (n, 2) as prompt and
    output.
    """

    name: str
    offsets_s: NDArray[np.float64]
    lengths: NDArray[np.int64]
    digest: str
    drawn: bool = False
    labels: tuple[tuple[str, str], ...] = ()

    def window(self, start_s: float, duration_s: float | None) -> Trace:
        """Cut out a part; offsets then start at 0 at `start_s`."""
        stop = math.inf if duration_s is None else start_s + duration_s
        kept = (self.offsets_s >= start_s) & (self.offsets_s < stop)
        if not kept.any():
            raise TraceError(f"{self.name} has nothing between {start_s:g} and {stop:g} s")
        return Trace(
            self.name,
            self.offsets_s[kept] - start_s,
            self.lengths[kept],
            self.digest,
            self.drawn,
            tuple(label for label, keep in zip(self.labels, kept.tolist(), strict=False) if keep),
        )


def read(path: Path, *, seed: int = 1, horizon_s: float = 3600.0) -> Trace:
    """Read a trace; `seed` and `horizon_s` matter only where arrivals are drawn from rates.

    Raises TraceError.
    """
    if not path.exists():
        raise TraceError(f"no trace {path}")
    raw = path.read_bytes()
    text = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode("utf-8")
    digest = hashlib.sha256(raw).hexdigest()
    first = text.lstrip()[:200]
    drawn = False
    if first.startswith("{"):
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
    rows.sort()
    offsets = np.array([row[0] for row in rows], dtype=np.float64)
    lengths = np.array([row[1:3] for row in rows], dtype=np.int64)
    labels = tuple((row[3], row[4]) for row in rows)
    if set(labels) == {("", "")}:
        labels = ()
    return Trace(path.name, offsets, lengths, digest, drawn, labels)


Row = tuple[float, int, int, str, str]


def _own(row: dict[str, str]) -> Row:
    return (
        float(row["t_s"]),
        int(row["in_tokens"]),
        int(row["out_tokens"]),
        row.get("class") or "",
        row.get("tenant") or "",
    )


def _mooncake(lines: Iterable[str]) -> Iterator[Row]:
    for line in lines:
        if line.strip():
            row = json.loads(line)
            asked, answered = int(row["input_length"]), int(row["output_length"])
            yield row["timestamp"] / 1000, asked, answered, "", ""


def _servegen(table: Iterable[dict[str, str]], seed: int, horizon_s: float) -> Iterator[Row]:
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
            yield start, one, other, "", ""


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
