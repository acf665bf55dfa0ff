"""How many units shall there be, and which guard said so?

Pure. A forecast becomes a number by its price (a unit is worth running while the chance that it is
needed exceeds 1/price), the guards bound it, and an action is taken once the regret of not taking
it exceeds the action's own price.
"""

import math
from dataclasses import dataclass, replace
from enum import StrEnum

from autoscale.forecast import Forecast
from autoscale.policy import Policy
from autoscale.restraint import faded, regret, restraint

# What is held is the peak of so many cold starts: a record must be as long to tell of one.
PEAK_STARTS = 2.5


class Guard(StrEnum):
    """What bound the decision."""

    FORECAST = "forecast"  # the forecast's quantile alone
    QUEUE = "queue"  # calls wait: at once
    BACKLOG = "backlog"  # calls wait although by the forecast there is enough
    STEADY = "steady"  # the difference is not worth an action yet
    HOLD = "hold"  # the peak of the next cold starts needs it
    RECORD = "record"  # too little was seen yet to take anything away
    BLIND = "blind"  # signals are missing or stale: never down
    STEP = "step"  # the bound on one step down
    FLOOR = "floor"  # least, spare units
    BUDGET = "budget"  # most
    STUCK = "stuck"  # a start was given up
    NEAR = "near"  # calls that may not go to every kind of hardware lack units
    TRADE = "trade"  # a cheaper kind of hardware takes over
    SWAP = "swap"  # a unit changes its model
    DEADLINE = "deadline"  # deferrable work would be late
    WAKE = "wake"  # from zero: somebody calls
    IDLE = "idle"  # to zero: nobody has called for long
    PAUSED = "paused"  # an operator says so


@dataclass(frozen=True, slots=True)
class PoolView:
    """A pool at an instant, in units and unit-seconds.

    `starting` are the instants at which pending starts were asked for; `stuck` counts replicas that
    are there and do not serve (they are not counted on). `offered` and `missed` is work of the last
    tick; `waiting_s` is the work that waits, `oldest_wait_s` the longest wait. `deferrable` are the
    units that deferrable work needs by its deadlines. `blind` says that signals are stale.
    """

    at: float
    ready: int
    starting: tuple[float, ...] = ()
    draining: int = 0
    stuck: int = 0
    offered: float = 0.0
    missed: float = 0.0
    waiting_s: float = 0.0
    oldest_wait_s: float = 0.0
    deferrable: float = 0.0
    last_call_at: float = 0.0
    blind: bool = False
    cold_start_s: float = 240.0


@dataclass(frozen=True, slots=True)
class Memory:
    """What a decision must know of those before it: all that `plan` keeps.

    `shortage` is what it was expected to cost until now, in unit-seconds; `actions` counts those of
    about a day (None: nothing is known, as many as the policy allows are assumed).
    """

    shortage: float = 0.0
    excess: float = 0.0
    offered: float = 0.0
    missed: float = 0.0
    seen_s: float = 0.0
    at: float | None = None
    acted_at: float | None = None
    actions: float | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do: start, cancel pending starts (the youngest first), drain, give stuck starts up.

    `wanted` is what the forecast alone asks for, `price` and `quantile` how it was asked.
    """

    at: float
    target: int
    start: int = 0
    cancel: int = 0
    drain: int = 0
    give_up: int = 0
    guard: Guard = Guard.STEADY
    wanted: float = 0.0
    held: float = 0.0
    price: float = 0.0
    quantile: float = 0.0
    spent: float = 0.0

    @property
    def acts(self) -> bool:
        """Whether anything is to be done."""
        return bool(self.start or self.cancel or self.drain or self.give_up)


def plan(
    view: PoolView, forecast: Forecast, policy: Policy, memory: Memory, *, now: float
) -> tuple[Plan, Memory]:
    """Decide for one pool; the forecast is in units. Gives the plan and what to remember."""
    elapsed = 0.0 if memory.at is None else max(0.0, now - memory.at)
    memory = _spend(view, memory, elapsed, policy)
    spent = _spent(memory, policy)
    price = _price(spent, policy)
    quantile = 1.0 - 1.0 / price
    pending, given_up = _pending(view, policy, now)
    have = view.ready + pending
    wanted, held, guard = _wanted(view, forecast, policy, quantile, now)
    lacks = 0.0
    if wanted > have:  # units that stand by are to do no work
        spare = policy.spare_units
        lacking = regret(forecast, price, have - spare, wanted - spare)
        if guard is Guard.BACKLOG:  # of which the forecast knows nothing
            lacking = max(lacking, wanted - have)
        lacks = memory.shortage + lacking * elapsed
    excess = have - held
    memory = replace(
        memory,
        shortage=lacks,
        excess=memory.excess + excess * elapsed if excess > 0.5 else 0.0,
        actions=faded(_actions(memory, policy), elapsed),
    )
    target, guard = _target(view, policy, memory, have, wanted, held, guard)
    done = Plan(
        now,
        target,
        start=max(0, target - have),
        cancel=min(max(0, have - target), pending),
        drain=max(0, have - target - pending),
        give_up=given_up,
        guard=Guard.STUCK if given_up and target <= have else guard,
        wanted=wanted,
        held=held,
        price=price,
        quantile=quantile,
        spent=spent,
    )
    if target != have:
        actions = _actions(memory, policy) + 1.0
        memory = replace(memory, shortage=0.0, excess=0.0, acted_at=now, actions=actions)
    return done, replace(memory, at=now)


def _pending(view: PoolView, policy: Policy, now: float) -> tuple[int, int]:
    """Count the starts that may still come, and those that are to be given up."""
    oldest = now - policy.stuck_factor * view.cold_start_s
    good = sum(1 for asked_at in view.starting if asked_at > oldest)
    return good, len(view.starting) - good


def _wanted(
    view: PoolView, forecast: Forecast, policy: Policy, quantile: float, now: float
) -> tuple[float, float, Guard]:
    """Give the units that are wanted, those that are not to be dropped, and what bound them."""
    if policy.least == 0 and now - view.last_call_at > policy.idle_s and not view.waiting_s:
        return 0.0, 0.0, Guard.IDLE
    wanted, guard = forecast.upper(quantile), Guard.FORECAST
    if view.waiting_s > 0.0 and view.oldest_wait_s > 1.0:
        cleared = forecast.level + view.waiting_s / max(view.cold_start_s, 1.0)
        if cleared > wanted:
            wanted, guard = cleared, Guard.QUEUE
        # All that is ready is busy, whatever the capacity law says that it could do.
        busy = view.ready + view.waiting_s / max(view.cold_start_s, 1.0)
        if busy > wanted:
            wanted, guard = busy, Guard.BACKLOG
    if view.deferrable > wanted:
        wanted, guard = view.deferrable, Guard.DEADLINE
    floor = float(policy.least)
    if policy.least == 0:  # somebody has called lately
        floor, guard = (1.0, Guard.WAKE) if wanted < 1.0 else (floor, guard)
    wanted += policy.spare_units
    if wanted < floor:
        wanted, guard = floor, guard if guard is Guard.WAKE else Guard.FLOOR
    if wanted > policy.most:
        wanted, guard = float(policy.most), Guard.BUDGET
    held = min(forecast.kept(policy.hold_quantile) + policy.spare_units, float(policy.most))
    return wanted, max(held, wanted), guard


def _target(
    view: PoolView,
    policy: Policy,
    memory: Memory,
    have: int,
    wanted: float,
    held: float,
    guard: Guard,
) -> tuple[int, Guard]:
    """Say whether to act now, and how far."""
    size = have * restraint(_actions(memory, policy), policy.actions_per_day)
    if wanted > have:
        urgent = guard in {Guard.QUEUE, Guard.WAKE, Guard.FLOOR, Guard.DEADLINE}
        if urgent or memory.shortage > policy.up_area_s * size:
            return math.ceil(wanted - 1e-9), guard
        return have, Guard.STEADY
    if have > policy.most:  # a budget that was lowered
        return policy.most, Guard.BUDGET
    if view.blind:
        return have, Guard.BLIND
    if guard is Guard.IDLE:
        return 0, Guard.IDLE
    if memory.excess > policy.down_area_s * size:
        lowest = have - max(1, math.floor(policy.most_step_down * have))
        kept = math.ceil(held - 1e-9)
        target = min(max(kept, lowest), have)
        if target < have and memory.seen_s < PEAK_STARTS * view.cold_start_s:
            return have, Guard.RECORD
        bound = Guard.STEP if lowest > kept else Guard.HOLD if held > wanted else guard
        return target, bound
    return have, Guard.STEADY


def _actions(memory: Memory, policy: Policy) -> float:
    return policy.actions_per_day if memory.actions is None else memory.actions


def _spend(view: PoolView, memory: Memory, elapsed: float, policy: Policy) -> Memory:
    """Book the last tick's offered and missed work; older ones fade over the window."""
    keep = math.exp(-elapsed / policy.budget_window_s)
    return replace(
        memory,
        offered=memory.offered * keep + view.offered,
        missed=memory.missed * keep + view.missed,
        seen_s=memory.seen_s * keep + elapsed,
    )


def _spent(memory: Memory, policy: Policy) -> float:
    """Say how much more of a whole window's error budget is spent than is due by now (1: all)."""
    if memory.offered <= 0.0 or memory.seen_s <= 0.0:
        return 0.0
    due = memory.seen_s / policy.budget_window_s
    allowed = (1.0 - policy.attainment) * memory.offered / due
    return memory.missed / allowed - due


def _price(spent: float, policy: Policy) -> float:
    gain = policy.price_gain if spent > 0.0 else policy.price_fall
    scaled: float = policy.price * 10.0 ** min(max(gain * spent, -3.0), 3.0)
    return min(max(scaled, policy.least_price), policy.most_price)
