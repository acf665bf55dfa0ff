"""How many units of each kind start and end, so that the fleet is worth what the plan asks for?

Pure. The plan counts in units of the first kind; here its number becomes starts, cancelled starts
and drains of each kind. While the plan stays two things move: calls that only some kinds can serve
start units there once what they lack, summed up over time, exceeds the price of an action; and a
dear unit makes room for cheaper ones once they would have saved more than that takes (`trades`).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from autoscale.places import NEARLY, Mixture, to_end, to_start
from autoscale.policy import Policy
from autoscale.stock import Move, Stock, counted
from autoscale.trades import Trading, trade

_POLICY = Policy()
_FORGOTTEN_S = 500.0  # after which a third is left of what was known of the classes' shares


@dataclass(frozen=True, slots=True)
class Mixed:
    """What is remembered between decisions: what calls that may not go everywhere have lacked,
    in unit-seconds, until when; and trades.
    """

    shortage: float = 0.0
    trading: Trading = field(default_factory=Trading)
    at: float | None = None


@dataclass(frozen=True, slots=True)
class Lately:
    """Work of late, in units, and that of the classes that may not go to every kind."""

    bound: float = 0.0
    all: float = 0.0

    @property
    def is_known(self) -> bool:
        """Whether any work has come yet."""
        return self.all > 0.0

    @property
    def share(self) -> float:
        """Which share of the work may not go everywhere; all, while nobody knows."""
        return self.bound / self.all if self.all > 0.0 else 1.0

    def after(self, bound: float, all_: float, elapsed_s: float) -> "Lately":
        """Take in the work of a tick; what was before fades."""
        kept = math.exp(-elapsed_s / _FORGOTTEN_S)
        return Lately(kept * self.bound + bound, kept * self.all + all_)


def moves(
    target: int,
    stocks: Sequence[Stock],
    mixture: Mixture,
    memory: Mixed,
    *,
    bound: float,
    now: float,
    is_known: bool = True,
    miss_price: float = 0.0,
    may_end: bool = True,
    policy: Policy = _POLICY,
) -> tuple[list[Move], Mixed]:
    """Say what to do with each kind until all are worth `target`, and what to remember.

    `bound` is the share of the target that only kinds can serve which calls of every class may go
    to; `is_known` False: that is feared rather than known, so that a fleet that need not grow is
    left alone. What is lacking there starts there, the rest where it costs least for its worth, to
    which `miss_price` adds what work costs that is missed until a start serves.
    Starts that are pending are given up before units are drained, the youngest first; of the units
    the dearest for their worth end first. Neither takes away more than is beyond the target.
    `may_end` False: no trade ends a unit now, for signals are stale.
    """
    ready, whole = counted(memory.trading.without_pending(stocks), mixture)
    have = ready + len(whole)
    worths = [
        w * (each.serving + each.foreign + len(each.starting))
        for w, each in zip(mixture.worth, stocks, strict=True)
    ]
    total, at_home = sum(worths), sum(worths[i] for i in mixture.home)
    room = [each.room for each in stocks]
    lack = bound * target - at_home
    elapsed = 0.0 if memory.at is None else max(0.0, now - memory.at)
    shortage = memory.shortage + lack * elapsed if lack > NEARLY and is_known else 0.0
    first: list[int] = []
    if target > have or shortage > policy.up_area_s * max(have, 1):
        first = to_start(lack, room, mixture, only=mixture.home, miss_price=miss_price)
        shortage = 0.0
    gained = sum(mixture.worth[i] for i in first)
    rest: list[int] = []
    if target > have:
        left = [count - first.count(i) for i, count in enumerate(room)]
        rest = to_start(target - total - gained, left, mixture, miss_price=miss_price)
    cancelled, drained = _ended(
        total + gained - target,
        at_home + gained - bound * target,
        stocks,
        mixture,
        cancels=target < have or bool(first),
        drains=target < have,
    )
    done = [
        Move(
            first.count(i) + rest.count(i),
            cancelled.count(i),
            drained.count(i),
            first.count(i),
        )
        for i in range(len(stocks))
    ]
    trading = Trading()
    if target == have and not first:
        traded, trading = trade(
            memory.trading,
            stocks,
            mixture,
            needed_at_home=bound * target,
            action_s=policy.up_area_s + policy.down_area_s,
            elapsed_s=elapsed,
            now=now,
            may_end=may_end,
        )
        done = [traded.get(i, each) for i, each in enumerate(done)]
    return done, replace(memory, shortage=shortage, at=now, trading=trading)


def _ended(
    spare: float,
    spare_at_home: float,
    stocks: Sequence[Stock],
    mixture: Mixture,
    *,
    cancels: bool,
    drains: bool,
) -> tuple[list[int], list[int]]:
    """Give the places of which a pending start each is given up, and those of which a unit each is
    drained.
    """
    cancelled: list[int] = []
    pending = [(at, i) for i, each in enumerate(stocks) if not each.fixed for at in each.starting]
    for _, i in sorted(pending, reverse=True) if cancels else ():
        worth, is_home = mixture.worth[i], i in mixture.home
        if worth > spare + NEARLY or (is_home and worth > spare_at_home + NEARLY):
            continue
        cancelled.append(i)
        spare, spare_at_home = spare - worth, spare_at_home - worth * is_home
    if not drains:
        return cancelled, []
    there = [0 if each.fixed else each.serving for each in stocks]
    return cancelled, to_end(spare, there, mixture, spare_at_home=spare_at_home)
