"""What does a recorded trace say: who called when, with how many tokens?

Two shapes: windows (ServeGen: rates and lengths per client and ten minutes) and arrivals (one row
per call). Token counts are tokens, times seconds from the start of the trace.
"""

import csv
import gzip
import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

WINDOW_S = 600.0


@dataclass(frozen=True, slots=True)
class Arrival:
    """One call of a trace; `blocks` are the ids of its prompt's leading blocks (Mooncake)."""

    at_s: float
    input_tokens: int
    output_tokens: int
    tenant: str = ""
    class_name: str = ""
    blocks: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class ClientWindows:
    """Rates and mean lengths of clients: arrays of shape (clients, windows).

    `rate_per_s` calls per second, `count_cv` the coefficient of variation between arrivals,
    `input_tokens` and `output_tokens` means (filled where the source has none: the client's own
    mean, else the fleet's), `window_s` the length of a window.
    """

    clients: tuple[str, ...]
    rate_per_s: Floats
    count_cv: Floats
    input_tokens: Floats
    output_tokens: Floats
    window_s: float = WINDOW_S

    def between(self, first: int, last: int) -> "ClientWindows":
        """Give the windows from `first` up to, not including, `last`."""
        part = slice(first, last)
        return ClientWindows(
            self.clients,
            self.rate_per_s[:, part],
            self.count_cv[:, part],
            self.input_tokens[:, part],
            self.output_tokens[:, part],
            self.window_s,
        )


class BadTrace(ValueError):
    """A trace that cannot be read; the message names the file and the fault."""


def opened(path: Path) -> IO[str]:
    """Open a text file, gzipped or not."""
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8", newline="")
    return path.open(encoding="utf-8", newline="")


def read_servegen(path: Path) -> ClientWindows:
    """Read a file of client windows; raises BadTrace."""
    with opened(path) as file:
        rows = list(csv.DictReader(file))
    if not rows or not {"t_s", "client", "rate_rps"} <= rows[0].keys():
        raise BadTrace(f"{path}: not a ServeGen client file (t_s, client, rate_rps, ...)")
    clients = tuple(sorted({row["client"] for row in rows}, key=_natural))
    index = {client: i for i, client in enumerate(clients)}
    windows = 1 + max(int(float(row["t_s"]) // WINDOW_S) for row in rows)
    shape = (len(clients), windows)
    rate, cv = np.zeros(shape), np.ones(shape)
    lengths = {name: np.full(shape, np.nan) for name in ("in_mean", "out_mean")}
    for row in rows:
        at = index[row["client"]], int(float(row["t_s"]) // WINDOW_S)
        rate[at] = float(row["rate_rps"])
        cv[at] = float(row.get("iat_cv") or 1.0)
        for name, array in lengths.items():
            if row.get(name):
                array[at] = float(row[name])
    filled = [_filled(array, rate) for array in lengths.values()]
    return ClientWindows(clients, rate, cv, filled[0], filled[1])


def _filled(values: Floats, weight: Floats) -> Floats:
    """Fill what is unknown with the client's weighted mean, else everybody's."""
    known = ~np.isnan(values)
    weights = np.where(known, weight, 0.0)
    zeros = np.where(known, values, 0.0)
    total = weights.sum()
    everybody = float((zeros * weights).sum() / total) if total > 0 else 300.0
    own_weight = weights.sum(axis=1, keepdims=True)
    own = (zeros * weights).sum(axis=1, keepdims=True) / np.maximum(own_weight, 1e-12)
    return np.where(known, values, np.where(own_weight > 0, own, everybody))


def _natural(name: str) -> tuple[int, str]:
    return (int(name), "") if name.isdigit() else (1 << 60, name)


def read_azure(path: Path) -> list[Arrival]:
    """Read `t_s,in_tokens,out_tokens`."""
    with opened(path) as file:
        return [
            Arrival(float(row["t_s"]), int(row["in_tokens"]), max(1, int(row["out_tokens"])))
            for row in csv.DictReader(file)
        ]


def read_mooncake(path: Path) -> list[Arrival]:
    """Read JSON lines with `timestamp` (ms), `input_length`, `output_length`, `hash_ids`."""
    with opened(path) as file:
        return [
            Arrival(
                float(row["timestamp"]) / 1e3,
                int(row["input_length"]),
                max(1, int(row["output_length"])),
                blocks=tuple(row.get("hash_ids", ())),
            )
            for row in map(json.loads, file)
        ]


def read_gentd26(path: Path) -> list[Arrival]:
    """Read image requests as video jobs: an arrival without tokens; its group is the tenant."""
    with opened(path) as file:
        return [
            Arrival(float(row["t_s"]), 0, 0, tenant=row.get("group", ""), class_name="offline")
            for row in csv.DictReader(file)
        ]


def read_sluice(path: Path) -> list[Arrival]:
    """Read our own receipts, JSON lines: arrived_at, input_tokens, output_tokens, tenant, class."""
    with opened(path) as file:
        rows = [json.loads(line) for line in file if line.strip()]
    if not rows:
        return []
    start = min(float(row["arrived_at"]) for row in rows)
    return [
        Arrival(
            float(row["arrived_at"]) - start,
            int(row.get("input_tokens") or 0),
            max(1, int(row.get("output_tokens") or 0)),
            tenant=str(row.get("tenant", "")),
            class_name=str(row.get("class", "")),
        )
        for row in rows
    ]


ARRIVAL_FORMATS: Mapping[str, Callable[[Path], list[Arrival]]] = {
    "azure": read_azure,
    "mooncake": read_mooncake,
    "gentd26": read_gentd26,
    "sluice": read_sluice,
}
FORMATS = ("servegen", *ARRIVAL_FORMATS)


def read_arrivals(path: Path, form: str) -> list[Arrival]:
    """Read the calls of a trace in order of arrival; raises BadTrace."""
    try:
        rows = ARRIVAL_FORMATS[form](path)
    except KeyError as error:
        raise BadTrace(f"{path}: not a trace in the format {form}: {error}") from error
    except (ValueError, OSError) as error:
        raise BadTrace(f"{path}: {error}") from error
    return sorted(rows, key=lambda arrival: arrival.at_s)


def drawn(
    windows: ClientWindows, *, scale: float, from_s: float, to_s: float, seed: int
) -> Iterator[Arrival]:
    """Draw calls between two instants, `scale` times the recorded rate; client by client.

    Gaps are gamma-distributed with the window's coefficient of variation (at most 4), lengths
    lognormal around the window's means. Not in order of arrival.
    """
    rng = np.random.default_rng(seed)
    for index, client in enumerate(windows.clients):
        first = int(from_s // windows.window_s)
        last = min(math.ceil(to_s / windows.window_s), windows.rate_per_s.shape[1])
        for window in range(first, last):
            rate = float(windows.rate_per_s[index, window]) * scale
            if rate <= 0.0:
                continue
            start = window * windows.window_s
            cv = min(max(float(windows.count_cv[index, window]), 0.3), MOST_COUNT_CV)
            for at in _gamma_arrivals(rng, rate, cv, windows.window_s):
                if not from_s <= start + at < to_s:
                    continue
                lengths = (
                    _length(rng, float(windows.input_tokens[index, window])),
                    _length(rng, float(windows.output_tokens[index, window])),
                )
                yield Arrival(float(start + at), *lengths, tenant=client)


MOST_COUNT_CV = 4.0
_SIGMA = 0.5


def _gamma_arrivals(
    rng: np.random.Generator, rate_per_s: float, cv: float, length_s: float
) -> Floats:
    shape = 1.0 / (cv * cv)
    count = int(rate_per_s * length_s * 1.5 + 20.0 * cv + 20.0)
    at = np.cumsum(rng.gamma(shape, 1.0 / (rate_per_s * shape), size=count))
    at -= at[0] * rng.random()  # the window starts anywhere within a gap
    return at[(at >= 0.0) & (at < length_s)]


def _length(rng: np.random.Generator, mean: float) -> int:
    return max(1, round(mean * math.exp(rng.normal(-_SIGMA * _SIGMA / 2, _SIGMA))))
