"""Which fleets does the benchmark scale, and how large is one unit of them?"""

from dataclasses import dataclass
from pathlib import Path

from autoscale.demand import TICK_S, DemandSeries, Reconstruction, from_windows, scale_for
from autoscale.traces import BadTrace, read_servegen
from backends.capacity import StepLaw
from backends.hardware import profile

SERVEGEN = ("m-large", "m-mid", "m-small")
# Work per second that a replica does at Interactive's limits: a mean step of 0.85 * 40 ms would
# allow 0.69 of a second; the calibrated simulations use this.
INTERACTIVE_SHARE = 0.67


@dataclass(frozen=True, slots=True)
class Unit:
    """What is started at once: `work_per_s` GPU-seconds of token work per second."""

    law: StepLaw
    work_per_s: float


UNIT = Unit(profile("llama2-70b", "mi355x").law, 8 * INTERACTIVE_SHARE)


def servegen_file(directory: Path, name: str) -> Path:
    """Find a fleet's file of client windows in a directory; raises BadTrace."""
    found = sorted(directory.glob(f"*{name}*clients*.csv*"))
    if not found:
        raise BadTrace(f"{directory}: no file *{name}*clients*.csv.gz")
    return found[0]


def servegen_series(
    directory: Path,
    name: str,
    how: Reconstruction,
    *,
    seed: int,
    unit: Unit,
    mean_units: float = 30.0,
) -> DemandSeries:
    """Draw a fleet's demand in units, scaled to a mean of `mean_units`."""
    return units_of(
        servegen_file(directory, name), how, seed=seed, unit=unit, mean_units=mean_units
    )


def units_of(
    path: Path, how: Reconstruction, *, seed: int, unit: Unit, mean_units: float = 30.0
) -> DemandSeries:
    """Draw the demand of one file of client windows in units."""
    windows = read_servegen(path)
    scale = scale_for(windows, unit.law, mean_units=mean_units, unit_work_per_s=unit.work_per_s)
    series = from_windows(windows, unit.law, scale=scale, how=how, seed=seed)
    return series.scaled(1.0 / (unit.work_per_s * TICK_S))
