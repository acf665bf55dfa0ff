"""When does a unit of a dear kind make room for cheaper ones, though as many are needed? Pure.

Once what the cheaper ones would have saved, summed up over time, exceeds what it takes to start
them and the price of two actions. They start first, and what they replace ends when they serve:
until then they count for nothing, so that the plan goes on as if nothing happened. Whatever the
plan does meanwhile ends a trade; its starts then count as any others.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from autoscale.places import NEARLY, Mixture
from autoscale.stock import Move, Stock

_LONGEST = 3.0  # starts that a trade may take
# Of a unit's worth that must be spare at home for one there to be traded away, so that a share of
# calls that sways does not fetch it back.
_SPARE = 1.5


@dataclass(frozen=True, slots=True)
class Trade:
    """A unit of the kind `give` (by index) for `count` of the kind `take`; begun at an instant,
    when the fleet was worth so much.
    """

    give: int
    take: int
    count: int
    worth: float = 0.0
    at: float = 0.0


@dataclass(frozen=True, slots=True)
class Trading:
    """What is remembered: what a trade would have saved by now (cost times seconds), and the trade
    that is under way.
    """

    waste: float = 0.0
    open: Trade | None = None

    def without_pending(self, stocks: Sequence[Stock]) -> list[Stock]:
        """Give what counts: all but the starts of a trade that is under way."""
        if self.open is None:
            return list(stocks)
        taken = self.open.take
        return [replace(s, starting=()) if i == taken else s for i, s in enumerate(stocks)]


def trade(
    memory: Trading,
    stocks: Sequence[Stock],
    mixture: Mixture,
    *,
    needed_at_home: float,
    action_s: float,
    elapsed_s: float,
    now: float,
    may_end: bool = True,
) -> tuple[dict[int, Move], Trading]:
    """Begin or end a trade while the plan stays; give moves by kind and what to remember.

    `needed_at_home` is what must stay where calls of every class may go, `action_s` the price of
    an action in seconds of a unit; `may_end` False: nothing may be ended now.
    """
    worth = [
        w * (each.serving + each.foreign) for w, each in zip(mixture.worth, stocks, strict=True)
    ]
    spare_at_home = sum(worth[i] for i in mixture.home) - needed_at_home
    if memory.open is not None:
        return _went_on(
            memory, memory.open, stocks, mixture, sum(worth), spare_at_home, now, may_end=may_end
        )
    best = _best(stocks, mixture, spare_at_home)
    if best is None or any(each.starting for each in stocks):
        return {}, Trading()
    found, saved = best
    waste = memory.waste + saved * elapsed_s
    taken, given = mixture.places[found.take], mixture.places[found.give]
    price = found.count * taken.cost * taken.start_s + 2.0 * action_s * given.cost
    if waste <= price:
        return {}, Trading(waste)
    begun = replace(found, worth=sum(worth), at=now)
    return {found.take: Move(start=found.count, traded=True)}, Trading(0.0, begun)


def _went_on(
    memory: Trading,
    begun: Trade,
    stocks: Sequence[Stock],
    mixture: Mixture,
    worth: float,
    spare_at_home: float,
    now: float,
    *,
    may_end: bool,
) -> tuple[dict[int, Move], Trading]:
    """End what is replaced once what replaces it serves; forget a trade that came to nothing."""
    taken, given = stocks[begun.take], stocks[begun.give]
    longest_s = _LONGEST * mixture.places[begun.take].start_s
    if taken.starting and now - begun.at <= longest_s:
        return {}, memory
    left = worth - mixture.worth[begun.give]
    serves = not taken.starting and left >= begun.worth - NEARLY
    if not serves or not given.serving or given.fixed:
        # The starts of this tick are listed with the next one.
        return {}, memory if now <= begun.at else Trading()
    if not may_end:
        return {}, memory
    at_home = mixture.worth[begun.give] if begun.give in mixture.home else 0.0
    if at_home > spare_at_home + NEARLY:
        return {}, Trading()
    return {begun.give: Move(drain=1, traded=True)}, Trading()


def _best(
    stocks: Sequence[Stock], mixture: Mixture, spare_at_home: float
) -> tuple[Trade, float] | None:
    """Give the trade that saves most, and what it saves by the second."""
    found: tuple[Trade, float] | None = None
    for give, given in enumerate(stocks):
        if not given.serving or given.fixed or mixture.worth[give] <= 0.0:
            continue
        for take, taken in enumerate(stocks):
            if take == give or mixture.worth[take] <= 0.0:
                continue
            count = math.ceil(mixture.worth[give] / mixture.worth[take] - NEARLY)
            saved = mixture.places[give].cost - count * mixture.places[take].cost
            leaves = _SPARE * mixture.worth[give] if give in mixture.home else 0.0
            comes = count * mixture.worth[take] if take in mixture.home else 0.0
            if count > taken.room or saved <= NEARLY or leaves > spare_at_home + comes + NEARLY:
                continue
            if found is None or saved > found[1]:
                found = Trade(give, take, count), saved
    return found
