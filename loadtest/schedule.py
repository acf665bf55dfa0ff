"""When does each query start, and which sample does it carry?

All arrivals are int64 nanoseconds from the start of the run, ascending, made before the run starts.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from loadtest import order
from loadtest.mersenne import Mt19937
from loadtest.seeds import Seeds

Nanoseconds = NDArray[np.int64]
NS = 1_000_000_000


@dataclass(frozen=True, slots=True, eq=False)
class Schedule:
    """Queries in order of their start.

    `arrivals_ns`: int64, shape (n,). `samples`: int32 dataset indices, shape (n,). `closed_loop`:
    arrivals are not used, each query starts when the one before it completes (SingleStream).
    """

    arrivals_ns: Nanoseconds
    samples: order.Indices
    kind: str
    closed_loop: bool = False

    def __post_init__(self) -> None:
        if self.arrivals_ns.shape != self.samples.shape:
            raise ValueError("a schedule has one sample per arrival")

    def __len__(self) -> int:
        return len(self.arrivals_ns)

    @property
    def digest(self) -> str:
        """Identify the schedule: sha256 over arrivals (int64 LE) and samples (int32 LE)."""
        sha = hashlib.sha256(self.arrivals_ns.astype("<i8").tobytes())
        sha.update(self.samples.astype("<i4").tobytes())
        return sha.hexdigest()

    def shard(self, index: int, count: int) -> NDArray[np.int64]:
        """Give the positions that generator `index` of `count` issues: every count-th query."""
        if not 0 <= index < count:
            raise ValueError(f"no shard {index} of {count}")
        return np.arange(index, len(self), count, dtype=np.int64)


def loadgen_gaps_ns(seed: int, qps: float, count: int) -> Nanoseconds:
    """Draw `count` exponential gaps exactly as LoadGen does.

    libstdc++'s `generate_canonical` takes two words a draw; `math.log` is the C library's logarithm
    (numpy's own may differ in the last bit on some processors); the conversion to nanoseconds
    truncates.
    """
    if not qps > 0:
        raise ValueError(f"the rate must be positive, not {qps}")
    words = Mt19937(seed).words(2 * count).astype(np.float64)
    unit = (words[0::2] + words[1::2] * 2.0**32) / 2.0**64
    survival = 1.0 - np.minimum(unit, math.nextafter(1.0, 0.0))
    logs = np.fromiter(map(math.log, survival.tolist()), np.float64, count)
    return np.trunc(-logs / qps * 1e9).astype(np.int64)


def arrivals_of(gaps_ns: Nanoseconds) -> Nanoseconds:
    """Turn n gaps into n arrivals: the first at 0, the last gap unused."""
    starts = np.zeros(len(gaps_ns), dtype=np.int64)
    np.cumsum(gaps_ns[:-1], out=starts[1:])
    return starts


def whole_passes(
    gaps: Nanoseconds, dataset_size: int, *, min_duration_ns: int, min_queries: int
) -> int | None:
    """Count the queries of equal issue: whole passes until the last starts at or after the minimum.

    None when `gaps` does not reach that far.
    """
    starts = arrivals_of(gaps)
    count = -(-min_queries // dataset_size) * dataset_size
    while count <= len(starts):
        if starts[count - 1] >= min_duration_ns:
            return count
        count += dataset_size
    return None


def server(
    seeds: Seeds,
    qps: float,
    *,
    dataset_size: int,
    min_duration_s: float,
    min_queries: int,
    whole: bool,
) -> Schedule:
    """Make LoadGen's Server schedule (Interactive is the same with other limits).

    `whole` pads to whole dataset passes (equal issue); otherwise the run ends with the first query
    that starts at or after the minimum duration and completes the minimum count.
    """
    if not qps > 0:
        raise ValueError(f"the rate must be positive, not {qps}")
    min_ns = round(min_duration_s * NS)
    step = dataset_size if whole else 1
    guess = int(qps * min_duration_s * 1.1) + min_queries + 2 * step + 1000
    while True:
        gaps = loadgen_gaps_ns(seeds.arrivals, qps, guess)
        count = whole_passes(gaps, step, min_duration_ns=min_ns, min_queries=min_queries)
        if count is not None:
            break
        guess *= 2
    if whole:
        samples = order.equal_issue(seeds, dataset_size, count, min_queries=min_queries)
    else:
        samples = order.equal_issue(seeds, dataset_size, count, min_queries=1)
    return Schedule(arrivals_of(gaps)[:count], samples, "loadgen-server")


def single_stream(
    seeds: Seeds, *, dataset_size: int, count: int, whole: bool, min_queries: int = 100
) -> Schedule:
    """Make the longest possible SingleStream sequence; the run ends it by duration and count."""
    pick = order.equal_issue if whole else order.with_replacement
    samples = pick(seeds, dataset_size, count, min_queries=min_queries)
    return Schedule(np.zeros(count, dtype=np.int64), samples, "loadgen-single-stream", True)


def offline(
    seeds: Seeds,
    expected_qps: float,
    *,
    dataset_size: int,
    min_duration_s: float,
    min_samples: int,
    whole: bool,
) -> Schedule:
    """Make Offline's one query: all samples at time 0, 10 % more than the expected rate needs.

    Source: mlcommons/inference, loadgen/test_settings_internal.cc (kSlack 1.1) and loadgen.cc
    (padding).
    """
    count = max(min_samples, int(1.1 * min_duration_s * expected_qps))
    if whole:
        count = -(-count // dataset_size) * dataset_size
    samples = order.offline(seeds, dataset_size, count, shuffled=whole)
    return Schedule(np.zeros(count, dtype=np.int64), samples, "loadgen-offline")


def poisson(seed: int, qps: float, duration_s: float, *, dataset_size: int) -> Schedule:
    """Draw a Poisson process with a seed of one's own (numpy's PCG64, not LoadGen's generator)."""
    rng = np.random.default_rng(seed)
    size = int(qps * duration_s + 10 * math.sqrt(qps * duration_s) + 10)
    starts = np.cumsum(rng.exponential(1 / qps, size))
    starts = starts[starts < duration_s]
    return _own(starts, dataset_size, "poisson")


def constant(qps: float, duration_s: float, *, dataset_size: int) -> Schedule:
    """Start one query every 1/qps seconds."""
    return _own(np.arange(math.ceil(qps * duration_s)) / qps, dataset_size, "constant")


def burst(
    seed: int, qps: float, duration_s: float, *, dataset_size: int, size: int = 10
) -> Schedule:
    """Start `size` queries at once; bursts arrive as a Poisson process of mean rate qps / size."""
    rng = np.random.default_rng(seed)
    rate = qps / size
    bursts = int(rate * duration_s + 10 * math.sqrt(rate * duration_s) + 10)
    starts = np.cumsum(rng.exponential(1 / rate, bursts))
    return _own(np.repeat(starts[starts < duration_s], size), dataset_size, "burst")


def replay(offsets_s: NDArray[np.float64], *, speed: float = 1.0) -> Schedule:
    """Replay recorded arrivals `speed` times as fast; the sample of each is its own row."""
    if not speed > 0:
        raise ValueError(f"the speed must be positive, not {speed}")
    starts = np.round((offsets_s - offsets_s.min(initial=math.inf)) / speed * NS).astype(np.int64)
    rows = np.argsort(starts, kind="stable").astype(np.int32)
    return Schedule(starts[rows], rows, "replay")


def _own(starts_s: NDArray[np.float64], dataset_size: int, kind: str) -> Schedule:
    count = len(starts_s)
    samples = np.resize(np.arange(dataset_size, dtype=np.int32), count)
    return Schedule(np.round(starts_s * NS).astype(np.int64), samples, kind)
