"""When is a difference between the units that are there and those that are wanted worth an action?

Pure. An action has a price, and that price follows how many were taken lately: where load jumps
often fewer small steps are made, and where it is calm more of them.
"""

import math

from autoscale.forecast import Forecast

_DAY_S = 86_400.0
# How sharply, and how far at most, an action's price follows the actions of the last day.
_SHARPNESS = 4.0
_LEAST, _MOST = 0.1, 10.0


def regret(forecast: Forecast, price: float, have: float, wanted: float) -> float:
    """Say what `have` units are expected to cost more than those wanted, per second, in units: the
    work that they would not do at the price of a miss, less what they would cost.
    """
    goal = math.ceil(wanted - 1e-9)
    return max(price * forecast.work_between(have, goal) - (goal - have), 0.0)


def faded(actions: float, elapsed_s: float) -> float:
    """Count the actions of about a day: older ones fade."""
    return actions * math.exp(-elapsed_s / _DAY_S)


def restraint(actions: float, per_day: float) -> float:
    """Say how many times dearer an action is than at the `per_day` that are meant (0: as dear)."""
    if not per_day:
        return 1.0
    dearer: float = (actions / per_day) ** _SHARPNESS
    return min(max(dearer, _LEAST), _MOST)
