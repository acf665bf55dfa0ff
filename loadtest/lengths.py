"""How long are the prompts and answers of a synthetic dataset?

A distribution is one of {fixed: n}, {quantiles: [[p, n], ...]} (linear between), {normal: {mean,
sd, least, most}} and {lognormal: {mean, cv, least, most}} (cv = standard deviation / mean). Lengths
are tokens.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray


def draw(spec: Mapping[str, Any], seed: int, count: int) -> NDArray[np.int64]:
    """Draw `count` lengths, at least 1 each. Raises ValueError for an unknown distribution."""
    if len(spec) != 1:
        raise ValueError(f"a length distribution has one name, not {sorted(spec)}")
    [(kind, shape)] = spec.items()
    unit = np.random.default_rng(seed).random(count)
    match kind:
        case "fixed":
            values = np.full(count, float(shape))
        case "quantiles":
            points = np.array(shape, dtype=np.float64)
            values = np.interp(unit, points[:, 0], points[:, 1])
        case "normal":
            values = shape["mean"] + shape["sd"] * _normal(seed, count)
        case "lognormal":
            variance = math.log1p(float(shape["cv"]) ** 2)
            centre = math.log(float(shape["mean"])) - variance / 2
            values = np.exp(centre + math.sqrt(variance) * _normal(seed, count))
        case _:
            raise ValueError(f"unknown length distribution {kind!r}")
    if isinstance(shape, Mapping):
        values = np.clip(values, shape.get("least", 1), shape.get("most", math.inf))
    return np.maximum(1, np.round(values)).astype(np.int64)


def _normal(seed: int, count: int) -> NDArray[np.float64]:
    return np.random.default_rng(seed).standard_normal(count)
