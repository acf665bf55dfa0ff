"""What are units of several kinds of hardware worth, and which of them start and end? Pure.

What a policy asks for is in units of the first kind. A unit of another is worth what it does within
the limits of the tightest class whose calls may go to it.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from backends.slo import RTT_SHARE, Class

MOST = 1_000_000  # where no number is given
NEARLY = 1e-9
SERVES_S = 3600.0  # how long a unit that is started is taken to serve


@dataclass(frozen=True, slots=True)
class Place:
    """Units of one kind in one place.

    `does` is how many mean calls of each class a unit does in a second within the class's limits
    (0: they cannot be held), `rtt_s` the round trip to it, `cost` what it costs while it is there,
    `most` how many there may be, `start_s` how long it is there before it serves.
    """

    name: str
    does: Mapping[str, float]
    rtt_s: float = 0.0
    cost: float = 1.0
    most: int = MOST
    start_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Mixture:
    """Places as they compare: what a unit of each is worth in units of the first, those that calls
    of every class may go to (`home`, by index), and the classes that may not go to all (`bound`).
    """

    places: tuple[Place, ...]
    worth: tuple[float, ...]
    home: frozenset[int]
    bound: frozenset[str]

    @classmethod
    def of(cls, places: Sequence[Place], classes: Mapping[str, Class], model: str) -> "Mixture":
        """Compare them. A class whose limits the first cannot hold is not looked at."""
        ranked = sorted(classes.values(), key=lambda each: each.rank)
        held = [each for each in ranked if places[0].does.get(each.name, 0.0) > 0.0]
        by_class = {each.name: worths(places, each, model) for each in held}
        by_place = list(zip(*by_class.values(), strict=True)) or [(1.0,)] * len(places)
        return cls(
            tuple(places),
            tuple(next((w for w in each if w > 0.0), 0.0) for each in by_place),
            frozenset(i for i, each in enumerate(by_place) if min(each) > 0.0),
            frozenset(name for name, each in by_class.items() if min(each) == 0.0),
        )

    def price(self, index: int) -> float:
        """What a unit's worth costs at a place."""
        return self.places[index].cost / max(self.worth[index], NEARLY)

    def costs(self, miss_price: float) -> list[float]:
        """Give what a unit of each place costs that starts now: its cost for the hour that it is
        taken to serve and for its start, by the hour.

        While work is missed, a start that takes longer costs that work, too, at `miss_price` (in
        the cost of a unit of the first place).
        """
        miss = miss_price * self.places[0].cost
        return [
            each.cost + (each.cost + miss * worth) * each.start_s / SERVES_S
            for each, worth in zip(self.places, self.worth, strict=True)
        ]


def worths(places: Sequence[Place], klass: Class, model: str) -> list[float]:
    """Give what a unit of each place does of a class's mean calls, in units of the first place.

    0 where the gateway sends no calls of the class, because the way there takes too much of its
    TTFT limit (`gateway.routing.filters.near_enough`).
    """
    ttft_s = klass.targets(model).ttft_s
    within_s = math.inf if ttft_s is None else RTT_SHARE * ttft_s
    within_s = max(within_s, min(each.rtt_s for each in places))
    does = [each.does.get(klass.name, 0.0) for each in places]
    return [
        each / does[0] if does[0] and place.rtt_s <= within_s else 0.0
        for each, place in zip(does, places, strict=True)
    ]


def to_start(
    lack: float,
    room: Sequence[int],
    mixture: Mixture,
    *,
    only: Collection[int] | None = None,
    miss_price: float = 0.0,
) -> list[int]:
    """Choose places, by index, for units that are worth at least `lack` together; `room` says how
    many more each takes, `only` which are thought of; `miss_price` is as of `Mixture.costs`.

    The cheapest for its worth comes first; what is left at the end goes to the place that covers it
    at the least cost. Fewer are given where there is no more room.
    """
    chosen: list[int] = []
    left, worth = list(room), mixture.worth
    cost = mixture.costs(miss_price)
    among = range(len(left)) if only is None else sorted(only)
    while lack > NEARLY:
        able = [i for i in among if left[i] > 0 and worth[i] > 0.0]
        if not able:
            break
        covers = [i for i in able if worth[i] >= lack - NEARLY]
        best = min(able, key=lambda i: (cost[i] / worth[i], i))
        if covers:
            last = min(covers, key=lambda i: (cost[i], i))
            count = -(-lack // worth[best])
            if left[best] < count or cost[last] <= count * cost[best]:
                best = last
        chosen.append(best)
        left[best] -= 1
        lack -= worth[best]
    return chosen


def to_end(
    spare: float, there: Sequence[int], mixture: Mixture, *, spare_at_home: float = math.inf
) -> list[int]:
    """Choose places, by index, of which a unit each may end: the dearest for its worth first, and
    never more than `spare` together, of those at home never more than `spare_at_home`.
    """
    chosen: list[int] = []
    left, worth = list(there), mixture.worth
    for i in sorted(range(len(left)), key=lambda i: -mixture.price(i)):
        while left[i] > 0 and worth[i] <= spare + NEARLY:
            if i in mixture.home:
                if worth[i] > spare_at_home + NEARLY:
                    break
                spare_at_home -= worth[i]
            chosen.append(i)
            left[i] -= 1
            spare -= worth[i]
    return chosen
