"""Where do replicas of several kinds stand in a replay?"""

from collections.abc import Sequence
from dataclasses import dataclass

from autoscale.places import MOST, Mixture, Place
from autoscale.replay.kind import Kind
from backends.capacity import work_s


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

    @property
    def place(self) -> Place:
        """As it compares with others."""
        call_s = work_s(self.kind.law, self.kind.mix)
        does = {name: self.kind.share(name) / call_s for name in self.kind.classes}
        return Place(self.name, does, self.rtt_s, self.cost, self.most, self.cold_start_s)


def mixture_of(sites: Sequence[Site]) -> Mixture:
    """Compare sites by what a unit of each does of the first one's mean calls."""
    kind = sites[0].kind
    return Mixture.of([each.place for each in sites], kind.classes, kind.profile.model)
