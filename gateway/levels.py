"""Which replicas are kept shallow for the tightest class, and which may be filled deeper? Pure.

A replica that runs calls of several classes must keep the tightest one's TPOT, so a class that may
fill replicas deep takes them from one that may not, and is served worse by them than by deep ones.
Each class with demand is given replicas enough for it, tightest first. Looser classes may use what
it leaves of them, within the tight bounds, and leave a part free for its bursts; on those that it
needs whole (`alone`) that may be all there is.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, exp, sqrt
from types import MappingProxyType

from backends.slo import RTT_SHARE, Targets

HEADROOM = 1.3  # of the demand, since it comes in bursts and replicas that were deep drain slowly
BURST = 0.5  # of the root of the demand, in replicas: bursts are relatively larger in a small one
LINGER = 1.75  # a replica is given up only below this: once filled deep it takes long to come back
MEMORY_S = 8.0  # of the demand
SEEN_S = 60.0  # a class that called within this keeps one replica at least
_NOTHING: Mapping[str, Collection[str]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Level:
    """The class that a replica is kept for; `alone`: that class needs all of it."""

    name: str
    alone: bool = False


@dataclass(slots=True)
class Demand:
    """Seconds of token work per second that callers have asked for, served or not."""

    per_s: float = 0.0
    at: float = 0.0

    def ask(self, work_s: float, now: float) -> None:
        """Take in one call."""
        self.per_s = self.now(now) + work_s / MEMORY_S
        self.at = now

    def now(self, now: float) -> float:
        """Give the demand at an instant; it fades with a time constant of 8 s."""
        return self.per_s * exp(-max(now - self.at, 0.0) / MEMORY_S)

    def is_alive(self, now: float) -> bool:
        """Whether somebody has called lately."""
        return self.per_s > 0.0 and now - self.at <= SEEN_S


def levels(
    classes: Sequence[str],
    demand: Mapping[str, float],
    does_per_s: Mapping[str, float],
    replicas: Sequence[str],
    before: Mapping[str, Level],
    *,
    generous: bool = False,
    far: Mapping[str, Collection[str]] = _NOTHING,
) -> Mapping[str, Level]:
    """Give each replica the class that it is kept for.

    `classes` are those with demand, tightest first; `does_per_s` is the work that one replica does
    in a second within each one's bounds. Replicas come in order of how much runs on them, the least
    first; one that was kept for a class `before` stays there as long as the class needs as many.
    The loosest class has all that is left, and one replica at least is open to it; a tighter one
    has at least one, if only in common with others. `generous`: the loosest promises no time per
    token and fills replicas so deep that they come back late, so that the class next to it keeps
    more from it; bursts of those before that one find replicas which come back soon. `far` are
    replicas that a class's calls do not go to (`too_far`), so that none is kept there for them.
    """
    if not classes:
        return {}
    free = list(replicas)
    given: dict[str, Level] = {}
    for name in classes[:-1]:
        busy = demand[name] / max(does_per_s[name], 1e-9)
        beside = generous and name == classes[-2]
        needed = HEADROOM * busy + (BURST * sqrt(busy) if beside else 0.0)
        near = [r for r in free if r not in far.get(name, ())]
        had = sum(before.get(r, Level("")).name == name for r in near)
        lingers = beside and ceil(needed) < had < needed + LINGER
        count = had if lingers else max(1, ceil(needed))
        chosen = sorted(near, key=lambda r: _rank(before.get(r), name))[:count]
        for replica in chosen:
            free.remove(replica)
            alone = len(given) + 1 < len(replicas) and chosen.index(replica) < int(needed)
            given[replica] = Level(name, alone)
    return {**given, **dict.fromkeys(free, Level(classes[-1]))}


def too_far(
    rtt_s: Mapping[str, float], targets: Mapping[str, Targets]
) -> Mapping[str, frozenset[str]]:
    """Name the replicas that calls of each class do not go to, by the way there
    (`gateway.routing.filters.near_enough`); classes that may go everywhere are left out.
    """
    if len(set(rtt_s.values())) < 2:
        return {}
    nearest = min(rtt_s.values())
    found = {}
    for name, promise in targets.items():
        if promise.ttft_s is not None:
            within_s = max(nearest, RTT_SHARE * promise.ttft_s)
            found[name] = frozenset(r for r, way_s in rtt_s.items() if way_s > within_s)
    return {name: away for name, away in found.items() if away}


def _rank(level: Level | None, name: str) -> int:
    """Put replicas first that were kept for a class alone, then those in common."""
    if level is None or level.name != name:
        return 2
    return 0 if level.alone else 1
