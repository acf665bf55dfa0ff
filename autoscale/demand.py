"""How much token work arrives, tick by tick and tenant by tenant?

Work is in GPU-seconds by the step law; a series may be scaled so that its mean needs a given number
of units (nodes, replicas) at a given capacity.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from autoscale.traces import MOST_COUNT_CV, Arrival, ClientWindows, Floats
from backends.capacity import Mix, StepLaw, work_s

TICK_S = 10.0
# Work by the step law takes this spread of output lengths where only the mean is known.
SPREAD = 1.5


class Reconstruction(StrEnum):
    """How a window's mean becomes a rate: at once (pessimistic), or linearly between centres."""

    STEP = "step"
    SMOOTH = "smooth"


@dataclass(frozen=True, slots=True)
class DemandSeries:
    """Arriving work in GPU-seconds: shape (tenants, ticks)."""

    tenants: tuple[str, ...]
    work_s: Floats
    tick_s: float = TICK_S

    @property
    def total_s(self) -> Floats:
        """Work of all tenants: shape (ticks,)."""
        total: Floats = self.work_s.sum(axis=0)
        return total

    @property
    def ticks(self) -> int:
        """The number of ticks."""
        return int(self.work_s.shape[1])

    def between(self, from_s: float, to_s: float) -> "DemandSeries":
        """Give the ticks between two instants."""
        part = slice(round(from_s / self.tick_s), round(to_s / self.tick_s))
        return DemandSeries(self.tenants, self.work_s[:, part], self.tick_s)

    def scaled(self, factor: float) -> "DemandSeries":
        """Give the series with `factor` times the work."""
        return DemandSeries(self.tenants, self.work_s * factor, self.tick_s)


def scale_for(
    windows: ClientWindows, law: StepLaw, *, mean_units: float, unit_work_per_s: float
) -> float:
    """Say how many times the recorded rate needs `mean_units` units on average."""
    work = mean_work_s(windows, law)
    per_s = float((windows.rate_per_s * work).sum(axis=0).mean())
    return mean_units * unit_work_per_s / per_s


def mean_work_s(windows: ClientWindows, law: StepLaw) -> Floats:
    """Give the work of a mean call in GPU-seconds: shape (clients, windows)."""
    read, out = windows.input_tokens, windows.output_tokens
    resident = read + SPREAD * out / 2
    return law.prefill_token_s * read + law.c_tok_s * out + law.c_kv_s * out * resident


def from_windows(
    windows: ClientWindows,
    law: StepLaw,
    *,
    scale: float,
    how: Reconstruction,
    seed: int,
    most_cv: float = MOST_COUNT_CV,
    tick_s: float = TICK_S,
) -> DemandSeries:
    """Draw a series: each client's count in a tick has the mean rate*tick and the variance cv^2
    times that (gamma-distributed; the cv is taken as `most_cv` at most, since a count over ten
    seconds does not vary as much as the fit of very sparse clients says).
    """
    rng = np.random.default_rng(seed)
    clients, count = windows.rate_per_s.shape
    per_window = round(windows.window_s / tick_s)
    ticks = count * per_window
    centres = (np.arange(count) + 0.5) * windows.window_s
    at = (np.arange(ticks) + 0.5) * tick_s
    per_call = mean_work_s(windows, law)
    work = np.zeros((clients, ticks))
    for i in range(clients):
        if how is Reconstruction.STEP:
            rate = np.repeat(windows.rate_per_s[i], per_window)
        else:
            rate = np.interp(at, centres, windows.rate_per_s[i])
        mean = rate * tick_s * scale
        variance_ratio = np.clip(np.repeat(windows.count_cv[i], per_window), 0.1, most_cv) ** 2
        drawn = rng.gamma(np.maximum(mean / variance_ratio, 1e-12)) * variance_ratio
        work[i] = np.where(mean > 0, drawn, 0.0) * np.repeat(per_call[i], per_window)
    return DemandSeries(windows.clients, work, tick_s)


def from_arrivals(
    arrivals: Sequence[Arrival], law: StepLaw, *, tick_s: float = TICK_S, ticks: int | None = None
) -> DemandSeries:
    """Sum the work of single calls by tick and tenant."""
    tenants = tuple(sorted({arrival.tenant for arrival in arrivals}))
    index = {tenant: i for i, tenant in enumerate(tenants)}
    last = max((arrival.at_s for arrival in arrivals), default=0.0)
    length = ticks if ticks is not None else int(last // tick_s) + 1
    work = np.zeros((len(tenants), length))
    for arrival in arrivals:
        tick = int(arrival.at_s // tick_s)
        if 0 <= tick < length:
            work[index[arrival.tenant], tick] += call_work_s(law, arrival)
    return DemandSeries(tenants, work, tick_s)


def call_work_s(law: StepLaw, arrival: Arrival) -> float:
    """Give the work of one call in GPU-seconds, its lengths known."""
    return work_s(law, Mix(arrival.input_tokens, arrival.output_tokens))


def synthetic(
    *, days: float, mean_units: float, unit_work_per_s: float, seed: int, tick_s: float = TICK_S
) -> DemandSeries:
    """Make a series with a daily wave, a noisy middle and tenants that burst: for tests, and where
    a trace may not be carried.
    """
    rng = np.random.default_rng(seed)
    ticks = round(days * 86_400 / tick_s)
    hours = np.arange(ticks) * tick_s / 3600.0
    wave = 1.0 + 0.5 * np.sin(2 * np.pi * (hours - 9.0) / 24.0)
    rows = [0.7 * wave, 0.2 * _steps(rng, ticks, 180), 0.1 * _bursts(rng, ticks, 2160, 360)]
    level = np.stack(rows) * mean_units
    noisy = np.maximum(level * (1.0 + 0.03 * rng.standard_normal(level.shape)), 0.0)
    return DemandSeries(("wave", "steps", "bursts"), noisy * unit_work_per_s * tick_s, tick_s)


def _steps(rng: np.random.Generator, ticks: int, length: int) -> Floats:
    levels = rng.lognormal(-0.08, 0.4, size=ticks // length + 1)
    return np.repeat(levels, length)[:ticks]


def _bursts(rng: np.random.Generator, ticks: int, every: int, length: int) -> Floats:
    level = np.zeros(ticks)
    for start in _positions(rng, ticks, every):
        level[start : start + length] = every / length
    return level


def _positions(rng: np.random.Generator, ticks: int, every: int) -> Iterable[int]:
    return (int(x) for x in rng.integers(0, ticks, size=max(1, ticks // every)))
