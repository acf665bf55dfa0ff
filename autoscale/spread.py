"""How do the plans of all pools become starts and ends of each kind of unit that there is room for?

Pure but for what a pool remembers. A kind takes no start that its `most` has no room for, whose
hardware's budget is given to others, or that follows too soon on one that failed; where a pool
lists several kinds, another takes it then.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import inf
from typing import Any

from autoscale.allocate import Claim, granted
from autoscale.decide import Decided
from autoscale.journal import expected_misses
from autoscale.mixing import Mixed, moves
from autoscale.places import NEARLY
from autoscale.plan import Guard, Plan
from autoscale.stock import Move, Stock, counted
from autoscale.watched import Look, Part


def spread(decided: Sequence[Decided], budget: Mapping[str, int], now: float) -> list[Decided]:
    """Give each pool's decision with its parts, cut to what may start now."""
    looks = [look for each in decided for look in each.looks]
    paused = {look.kind.config.key for look in looks if now < look.kind.lives.retry_at}
    limits = dict.fromkeys(paused, 0)
    while True:
        found = [_parted(each, limits, paused) for each in decided]
        claims = [claim for each, _ in found for claim in claims_of(each)]
        grants = granted(claims, budget)
        cut = {each.pool: grants[each.pool] for each in claims if grants[each.pool] < each.start}
        if not cut:
            break
        limits |= cut
    for each, mixed in found:
        each.pool.mixed = mixed
    return [each for each, _ in found]


def claims_of(decided: Decided) -> list[Claim]:
    """Say what it asks of the budgets of its hardware, and what each start is worth."""
    forecast, plan = decided.forecast, decided.plan
    have = decided.view.ready + len(decided.view.starting)

    def claim(part: Part, unit: float) -> Claim:
        def worth(more: int) -> float:
            before = have + (more - 1) * unit
            gain = expected_misses(forecast, before) - expected_misses(forecast, before + unit)
            return plan.price * gain

        hardware = part.look.kind.config.hardware
        return Claim(part.key, hardware, part.look.present, part.start, worth)

    return [
        claim(part, unit) for part, unit in zip(decided.parts, decided.mixture.worth, strict=True)
    ]


def kinds_of(decided: Decided) -> list[dict[str, Any]]:
    """Tell what is done with each kind, and why, in plain values; nothing for a pool of one."""
    if len(decided.parts) < 2:
        return []
    return [
        {
            "name": part.look.kind.config.name,
            "hardware": part.look.kind.config.hardware,
            "worth": round(decided.mixture.worth[i], 3),
            "price": round(decided.mixture.price(i), 3),
            "serving": len(part.look.stand.serving) + part.look.stand.foreign,
            "starting": len(part.look.stand.starting),
            "draining": len(part.look.stand.draining),
            "stuck": len(part.look.stand.stuck),
            "start": part.start,
            "cancel": part.cancel,
            "drain": part.drain,
            "give_up": part.give_up,
            "ended": len(part.look.lost),
            "why": part.why,
        }
        for i, part in enumerate(decided.parts)
    ]


def _parted(decided: Decided, limits: Mapping[str, int], paused: set[str]) -> tuple[Decided, Mixed]:
    if len(decided.looks) > 1:
        return _of_several(decided, limits, paused)
    (look,) = decided.looks
    key = look.kind.config.key
    bounded = decided
    if key in limits:
        bounded = decided.within(limits[key], Guard.STUCK if key in paused else Guard.BUDGET)
    plan = bounded.plan
    part = Part(look, plan.start, plan.cancel, plan.drain, plan.give_up)
    return replace(bounded, parts=(part,)), decided.pool.mixed


def _of_several(
    decided: Decided, limits: Mapping[str, int], paused: set[str]
) -> tuple[Decided, Mixed]:
    """Make a plan in units of the first kind into moves of each kind."""
    looks, plan = decided.looks, decided.plan
    stocks = [look.stock(limits.get(look.kind.config.key, inf)) for look in looks]
    done, mixed = moves(
        plan.target,
        stocks,
        decided.mixture,
        decided.pool.mixed,
        bound=decided.bound,
        now=decided.view.at,
        is_known=decided.pool.lately.is_known,
        miss_price=_miss_price(plan),
        may_end=not decided.view.blind,
        policy=decided.pool.config.policy,
    )
    whys = [_why(i, done, stocks, decided, limits, paused) for i in range(len(looks))]
    parts = tuple(
        Part(look, move.start, move.cancel, move.drain, len(look.late) * look.is_seen, why)
        for look, move, why in zip(looks, done, whys, strict=True)
    )
    ready, starting = counted(
        [
            replace(each, starting=(*each.starting, *((plan.at,) * move.start)))
            for each, move in zip(
                decided.pool.mixed.trading.without_pending(stocks), done, strict=True
            )
        ],
        decided.mixture,
    )
    reach = max(ready + len(starting), decided.view.ready + len(decided.view.starting))
    guard, target = plan.guard, plan.target
    if reach < target:
        waits = any(look.kind.config.key in paused or look.is_troubled for look in looks)
        guard, target = Guard.STUCK if waits else Guard.BUDGET, reach
    elif any(part.give_up for part in parts) and not any(move.acts for move in done):
        guard = Guard.STUCK
    elif any(move.at_home for move in done) and plan.start == 0:
        guard = Guard.NEAR
    elif any(move.traded for move in done):
        guard = Guard.TRADE
    plan = replace(
        plan,
        target=target,
        start=sum(part.start for part in parts),
        cancel=sum(part.cancel for part in parts),
        drain=sum(part.drain for part in parts),
        give_up=sum(part.give_up for part in parts),
        guard=guard,
    )
    return replace(decided, plan=plan, parts=parts), mixed


def _miss_price(plan: Plan) -> float:
    """Say what a start costs by the time that it takes: nothing, while it is ahead of the need."""
    return plan.price if plan.guard in {Guard.QUEUE, Guard.BACKLOG, Guard.WAKE} else 0.0


def _why(
    index: int,
    done: Sequence[Move],
    stocks: Sequence[Stock],
    decided: Decided,
    limits: Mapping[str, int],
    paused: set[str],
) -> str:
    """Say why so much is done with a kind, or why nothing is."""
    look, mixture, move = decided.looks[index], decided.mixture, done[index]
    price = [
        cost / max(worth, NEARLY)
        for cost, worth in zip(mixture.costs(_miss_price(decided.plan)), mixture.worth, strict=True)
    ]
    able = [each for each, stock in zip(price, stocks, strict=True) if stock.room]
    is_cheapest = price[index] <= min(able, default=0.0)
    found = _why_done(move, decided, is_cheapest=is_cheapest)
    if look.late:
        found.append("a start took too long, so that others are asked first for a while")
    if not look.is_seen:
        found.append("its units cannot be listed")
    elif mixture.worth[index] <= 0.0:
        found.append("no calls may go there")
    elif not found:
        found.append(_no_start(look, limits, paused))
    if not any(found):
        starts = any(each.start > each.at_home for each in done)
        found = ["dearer for its worth" if starts and not is_cheapest else "as it was"]
    return "; ".join(found)


def _why_done(move: Move, decided: Decided, *, is_cheapest: bool) -> list[str]:
    """Say why a kind starts and ends what it does."""
    found = []
    if move.traded:
        return ["a cheaper kind takes over, which saves more by now than its start costs"]
    if move.at_home:
        names = " and ".join(sorted(decided.mixture.bound))
        found.append(f"{decided.bound:.0%} of the work ({names}) may not go to every kind")
    if move.start > move.at_home:
        cheapest = "the cheapest for its worth of those with room"
        if _miss_price(decided.plan):
            cheapest += ", with what is missed until it serves"
        found.append(cheapest if is_cheapest else "what is left costs least there")
    if move.cancel:
        found.append("pending starts go before units do")
    if move.drain:
        found.append("the dearest for its worth ends first")
    return found


def _no_start(look: Look, limits: Mapping[str, int], paused: set[str]) -> str:
    """Say why no more of a kind could start, if that is so."""
    config = look.kind.config
    if look.present >= config.most:
        return f"all {config.most} are there"
    if look.has_failed:
        return "a start there has failed, so that others are asked first for a while"
    if config.key in paused:
        return f"it waits until {look.kind.lives.retry_at:.0f} since a start there went wrong"
    if limits.get(config.key) == 0:
        return f"the budget of {config.hardware} is spent"
    return ""
