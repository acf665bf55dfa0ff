"""From which recorded weeks come the forecast's weights, and how are they fitted?

`python -m autoscale.training --traces DIR --out weights.json` fits, per cold start and quantile, a
linear quantile regression (pinball loss, smoothed; L-BFGS) of the work one cold start ahead, and of
the peak within two and a half, on the first `--days` days of each ServeGen trace, in both
reconstructions. Needs scipy.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.optimize import minimize

from autoscale.demand import TICK_S, DemandSeries, Reconstruction
from autoscale.fleets import SERVEGEN, UNIT, servegen_series
from autoscale.levels import FEATURES, Levels
from autoscale.traces import Floats

COLD_STARTS_S = (60.0, 240.0, 600.0)
UP_QUANTILES = (0.5, 0.6, 0.7, 0.8, 0.87, 0.92, 0.95, 0.97, 0.985, 0.995)
HOLD_QUANTILES = (0.5, 0.7, 0.85)
_SMOOTHING = 0.2  # units; within it the loss is rounded, so that it has a gradient everywhere
_EVERY = 5  # ticks that lie close say the same


def features_of(series: DemandSeries, cold_start_s: float) -> Floats:
    """Give the features of every tick: shape (ticks, features)."""
    ahead = round(cold_start_s / series.tick_s) + 1
    levels = Levels(len(series.tenants), tick_s=series.tick_s, horizon_ticks=ahead)
    rows = np.ascontiguousarray(series.work_s.T)
    return np.stack([levels.update(row, i * series.tick_s) for i, row in enumerate(rows)])


def targets_of(total: Floats, cold_start_s: float) -> tuple[Floats, Floats, int]:
    """Give for every tick the work one cold start ahead, the peak of the half-minute means until
    two and a half, and how many ticks at the end have neither.
    """
    ahead = round(cold_start_s / TICK_S) + 1
    reach = max(30, round(2.5 * cold_start_s / TICK_S))
    smooth = np.convolve(total, np.ones(3) / 3.0)[: len(total)]
    windows = np.lib.stride_tricks.sliding_window_view(smooth[1:], reach)
    usable = len(total) - reach - 1
    return total[ahead : ahead + usable], windows.max(axis=1)[:usable], reach + 1


def fit(features: Floats, target: Floats, quantile: float) -> Floats:
    """Fit the weights of one quantile."""
    scale = np.abs(features).mean(axis=0) + 1e-9
    scaled = features / scale

    def loss(weights: Floats) -> tuple[float, Floats]:
        error = (target - scaled @ weights) / _SMOOTHING
        value = np.where(error > 0, quantile * error, (quantile - 1) * error)
        value += np.log1p(np.exp(-np.abs(error)))
        share = 1.0 / (1.0 + np.exp(-np.clip(error, -50, 50)))
        gradient: Floats = -(scaled.T @ (quantile - 1 + share)) / len(target)
        return float(value.mean()) * _SMOOTHING, gradient

    start = np.zeros(features.shape[1])
    start[0] = scale[0]
    found = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 300})
    weights: Floats = found.x / scale
    return weights


def train(series: Sequence[DemandSeries], cold_start_s: float) -> tuple[Floats, Floats]:
    """Fit all quantiles on some series in units; gives `up` and `hold`."""
    rows, ahead, peaks = [], [], []
    for each in series:
        features = features_of(each, cold_start_s)
        up, hold, lost = targets_of(each.total_s, cold_start_s)
        part = slice(6, len(features) - lost, _EVERY)
        rows.append(features[part])
        ahead.append(up[part])
        peaks.append(hold[part])
    x, up, hold = np.concatenate(rows), np.concatenate(ahead), np.concatenate(peaks)
    return (
        np.stack([fit(x, up, quantile) for quantile in UP_QUANTILES]),
        np.stack([fit(x, hold, quantile) for quantile in HOLD_QUANTILES]),
    )


def main(arguments: Sequence[str]) -> int:
    """Fit and write the weights."""
    parser = argparse.ArgumentParser(prog="python -m autoscale.training", description=__doc__)
    parser.add_argument("--traces", type=Path, required=True)
    parser.add_argument("--fleet", action="append", choices=SERVEGEN, help="default: all")
    parser.add_argument("--days", type=float, default=5.0)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--cold-start", type=float, action="append", help="default: 60 240 600")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(arguments)
    series = [
        servegen_series(options.traces, name, how, seed=options.seed, unit=UNIT).between(
            0.0, options.days * 86_400.0
        )
        for name in options.fleet or SERVEGEN
        for how in Reconstruction
    ]
    cold_starts = tuple(options.cold_start or COLD_STARTS_S)
    fitted = [train(series, cold_start_s) for cold_start_s in cold_starts]
    document = {
        "features": FEATURES,
        "cold_start_s": cold_starts,
        "up_quantiles": UP_QUANTILES,
        "hold_quantiles": HOLD_QUANTILES,
        "up": [up.round(5).tolist() for up, _ in fitted],
        "hold": [hold.round(5).tolist() for _, hold in fitted],
        "trained_on": f"first {options.days:g} days of {', '.join(options.fleet or SERVEGEN)}",
    }
    options.out.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
