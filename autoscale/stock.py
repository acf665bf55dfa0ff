"""What is there of each kind of unit, what is done with it, how does the plan count it? Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

from autoscale.places import NEARLY, Mixture


@dataclass(frozen=True, slots=True)
class Stock:
    """What there is of one kind: units that serve, the instants at which the starts that may still
    come were asked for, replicas that serve and are not ours to end, in units (`foreign`), and how
    many more units may start now. `fixed`: nothing of it may be ended, since it cannot be seen.
    """

    serving: int = 0
    starting: tuple[float, ...] = ()
    foreign: float = 0.0
    room: int = 0
    fixed: bool = False


@dataclass(frozen=True, slots=True)
class Move:
    """What is done with one kind; `at_home` are the starts that calls of some classes asked for
    that may not go to every kind; `traded`: for a cheaper kind, while as much is needed.
    """

    start: int = 0
    cancel: int = 0
    drain: int = 0
    at_home: int = 0
    traded: bool = False

    @property
    def acts(self) -> bool:
        """Whether anything is done."""
        return bool(self.start or self.cancel or self.drain)


def counted(stocks: Sequence[Stock], mixture: Mixture) -> tuple[int, tuple[float, ...]]:
    """Give the fleet in whole units of the first kind: those that serve, and for each further one
    that starts make whole when it was asked for.
    """
    serving = sum(
        w * (each.serving + each.foreign) for w, each in zip(mixture.worth, stocks, strict=True)
    )
    ready = int(serving + NEARLY)
    rest = serving - ready
    starts = [
        (at, w) for w, each in zip(mixture.worth, stocks, strict=True) for at in each.starting
    ]
    whole = []
    for at, worth in sorted(starts):
        rest += worth
        while rest >= 1.0 - NEARLY:
            whole.append(at)
            rest -= 1.0
    return ready, tuple(whole)
