"""Which knobs does an operator have, and what do they mean?

One frozen value per pool; unknown names fail at start.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any


class BadPolicy(ValueError):
    """A policy that cannot be meant; the message names the knob."""


@dataclass(frozen=True, slots=True)
class Policy:
    """How one pool is scaled. A unit is what is started and stopped at once: a node or a replica.

    `attainment` is the promise over all offered work within `budget_window_s`. `price` is what a
    missed unit-second costs, in unit-seconds of running: the forecast quantile that is provided for
    is 1 - 1/price. `price_gain` is how many powers of ten the price rises for each whole error
    budget that is spent too early, `price_fall` how many it falls for each that is left over.
    `up_area_s` and `down_area_s` are the price of an action: it is taken once what the shortage is
    expected to cost (the excess), summed over time, exceeds that many seconds of the whole pool's
    size. Both rise where more than `actions_per_day` are taken, and fall where fewer are (0: they
    stay as they are). `hold_quantile`
    of the peak within two and a half cold starts is kept. `most_step_down` bounds one action, as a
    share. `spare_units` stand by for the loss of as many. A start that takes longer than
    `stuck_factor` cold starts is given up. `idle_s` without a call scales to `least` = 0.
    """

    attainment: float = 0.995
    price: float = 25.0
    price_gain: float = 0.7
    price_fall: float = 2.8
    least_price: float = 1.5
    most_price: float = 80.0
    budget_window_s: float = 3 * 86_400.0
    up_area_s: float = 6.0
    down_area_s: float = 16.0
    actions_per_day: float = 76.0
    hold_quantile: float = 0.6
    most_step_down: float = 0.5
    spare_units: int = 0
    least: int = 1
    most: int = 1_000
    stuck_factor: float = 3.0
    idle_s: float = 900.0

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        if not 0.0 < self.attainment < 1.0:
            raise BadPolicy("attainment must be within 0 and 1")
        if not 0 <= self.least <= self.most:
            raise BadPolicy("least must be within 0 and most")
        if not 1.0 < self.least_price <= self.price <= self.most_price:
            raise BadPolicy("price must be within least_price and most_price, above 1")
        if self.actions_per_day < 0.0:
            raise BadPolicy("actions_per_day must not be below 0")
        if not 0.0 < self.most_step_down <= 1.0:
            raise BadPolicy("most_step_down must be within 0 and 1")


# Tuned on weeks in which each tenant's days of the development traces were changed at random (see
# docs/autoscaling.md).
PRESETS: Mapping[str, Policy] = {
    "saving": Policy(attainment=0.99, price=14.0),
    "balanced": Policy(),
    "careful": Policy(attainment=0.999, price=40.0),
}


def from_mapping(values: Mapping[str, Any], base: Policy | None = None) -> Policy:
    """Make a policy of a YAML mapping; `preset` names a base. Raises BadPolicy."""
    given = dict(values)
    name = given.pop("preset", None)
    if name is not None and name not in PRESETS:
        raise BadPolicy(f"no preset {name!r}; there are {', '.join(PRESETS)}")
    start = PRESETS[name] if name is not None else base or Policy()
    known = {field.name: field for field in fields(Policy)}
    unknown = sorted(given.keys() - known.keys())
    if unknown:
        raise BadPolicy(f"no knob {unknown[0]!r}; there are {', '.join(known)}")
    for key, value in given.items():
        whole = isinstance(getattr(start, key), int)
        if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
            raise BadPolicy(f"{key} must be a number{' without a fraction' if whole else ''}")
    return replace(start, **given)
