"""Where do replicas of several kinds stand, and which of them start and end? Pure.

What a policy asks for is in units of the first site. A unit of another is worth what it does within
the limits of the class that the fleet is planned for.
"""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from autoscale.replay.kind import Kind
from backends.capacity import work_s
from gateway.routing.filters import RTT_SHARE

MOST = 1_000_000  # where no number is given
_NEARLY = 1e-9


@dataclass(frozen=True, slots=True)
class Site:
    """Replicas of one kind in one place: the round trip to them, how long a start takes (both in
    seconds), what a unit costs while it is there, and how many there may be.
    """

    name: str
    kind: Kind
    rtt_s: float = 0.0
    cold_start_s: float = 240.0
    cost: float = 1.0
    most: int = MOST


def worths(sites: Sequence[Site], class_name: str) -> list[float]:
    """Give what a unit of each site does of a class's mean calls, in units of the first site.

    0 where the gateway sends no calls of the class, because the way there takes too much of its
    TTFT limit (`gateway.routing.filters.near_enough`).
    """
    kind = sites[0].kind
    ttft_s = kind.targets(kind.classes[class_name]).ttft_s
    within_s = float("inf") if ttft_s is None else RTT_SHARE * ttft_s
    within_s = max(within_s, min(each.rtt_s for each in sites))
    does = [each.kind.share(class_name) / work_s(each.kind.law, each.kind.mix) for each in sites]
    return [
        each / does[0] if does[0] and site.rtt_s <= within_s else 0.0
        for each, site in zip(does, sites, strict=True)
    ]


def planned(sites: Sequence[Site]) -> list[float]:
    """Give what a unit of each site is worth for the tightest class that may go there."""
    ranked = sorted(sites[0].kind.classes.values(), key=lambda each: each.rank)
    by_class = [worths(sites, each.name) for each in ranked]
    return [next((w for w in each if w > 0), 0.0) for each in zip(*by_class, strict=True)]


def at_home(sites: Sequence[Site]) -> set[int]:
    """Give the sites, by index, that calls of every class may go to."""
    by_class = [worths(sites, name) for name in sites[0].kind.classes]
    return {i for i, each in enumerate(zip(*by_class, strict=True)) if min(each) > 0}


def bound_classes(sites: Sequence[Site]) -> set[str]:
    """Name the classes whose calls may not go to every site."""
    return {name for name in sites[0].kind.classes if min(worths(sites, name)) == 0}


def to_start(
    lack: float, there: Sequence[int], sites: Sequence[Site], worth: Sequence[float]
) -> list[int]:
    """Choose sites, by index, for units that are worth at least `lack` together.

    The cheapest for its worth comes first; what is left at the end goes to the site that covers it
    at the least cost. Fewer are given where there is no more room.
    """
    chosen: list[int] = []
    room = [each.most - count for each, count in zip(sites, there, strict=True)]
    while lack > _NEARLY:
        able = [i for i in range(len(sites)) if room[i] > 0 and worth[i] > 0]
        if not able:
            break
        covers = [i for i in able if worth[i] >= lack - _NEARLY]
        best = min(able, key=lambda i: (sites[i].cost / worth[i], i))
        if covers:
            last = min(covers, key=lambda i: (sites[i].cost, i))
            count = -(-lack // worth[best])
            if room[best] < count or sites[last].cost <= count * sites[best].cost:
                best = last
        chosen.append(best)
        room[best] -= 1
        lack -= worth[best]
    return chosen


def to_end(
    spare: float,
    there: Sequence[int],
    sites: Sequence[Site],
    worth: Sequence[float],
    *,
    home: Collection[int] = (),
    spare_at_home: float = math.inf,
) -> list[int]:
    """Choose sites, by index, of which a unit each may end: the dearest for its worth first, and
    never more than `spare` together, of those in `home` never more than `spare_at_home`.
    """
    chosen: list[int] = []
    left = list(there)
    dearest = sorted(range(len(sites)), key=lambda i: -sites[i].cost / max(worth[i], _NEARLY))
    for i in dearest:
        while left[i] > 0 and worth[i] <= spare + _NEARLY:
            if i in home:
                if worth[i] > spare_at_home + _NEARLY:
                    break
                spare_at_home -= worth[i]
            chosen.append(i)
            left[i] -= 1
            spare -= worth[i]
    return chosen
