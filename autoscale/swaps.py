"""Which units change their model, and how far is each? Kept in the store, so that any leader knows.

A swap begins when a unit is chosen for it, before it is drained. Once that unit is gone its place
is free; the start in it is noted before it is asked for, with the units that were there by then.
A leader that finds such a note tells by them whether the start was made. A swap is over once it
was, or when its unit serves again, or when it has lasted longer than any swap can.
"""

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

from redis.asyncio import Redis

from autoscale.observe import Standing
from backends.autoscaling import drains_of, swaps_of


@dataclass(frozen=True, slots=True)
class Change:
    """A unit that was drained for the pool `to`, at a Unix second; `before` names the units of that
    pool when the start in its place was asked for, None until it was.
    """

    unit: str
    to: str
    at: float
    before: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Underway:
    """Swaps towards one pool: those whose unit still drains, those whose place is free (the oldest
    first), and those that are over.
    """

    draining: tuple[Change, ...] = ()
    free: tuple[Change, ...] = ()
    over: tuple[Change, ...] = ()

    @property
    def count(self) -> int:
        """How many units are to come by them."""
        return len(self.draining) + len(self.free)


@dataclass(frozen=True, slots=True)
class Exchange:
    """What of a pool's plan belongs to swaps: so many of its drains are for the pool `to`, and its
    first starts are for the places of `free`. `pair` names the two pools' key.
    """

    pair: str = ""
    to: str = ""
    away: int = 0
    free: tuple[Change, ...] = ()


def underway(
    changes: Sequence[Change],
    to: str,
    *,
    source: Standing,
    target: Standing,
    now: float,
    most_s: float,
) -> Underway:
    """Sort the swaps towards a pool by what both pools' units look like now."""
    here = {unit.name for unit in _all(source)}
    serving = {unit.name for unit in source.serving}
    names = {unit.name for unit in _all(target)}
    draining, free, over = [], [], []
    started: set[str] = set()  # units that already stand for a start that was noted
    for change in sorted(changes, key=lambda each: (each.before is None, each.at, each.unit)):
        if change.to != to:
            continue
        if change.before is not None:
            new = sorted(names - set(change.before) - started)
            started.update(new[:1])
            is_over = bool(new)
        else:
            is_over = change.unit in serving
        if is_over or now - change.at > most_s:
            over.append(change)
        elif change.unit in here:
            draining.append(change)
        else:
            free.append(change)
    return Underway(tuple(draining), tuple(free), tuple(over))


def _all(stand: Standing) -> tuple[Any, ...]:
    return (*stand.serving, *stand.starting, *stand.draining, *stand.stuck)


class Swaps:
    """Reads and writes them; every method raises RedisError."""

    def __init__(self, store: Redis) -> None:
        self._store = store

    async def read(self, pair: str) -> list[Change]:
        """Give all that are under way between two pools."""
        found: Any = await self._store.hgetall(swaps_of(pair))
        return [_decoded(unit.decode(), json.loads(raw)) for unit, raw in found.items()]

    async def begin(self, pool: str, drained: Sequence[str], exchange: Exchange, at: float) -> None:
        """Note drains, the first `away` of them as swaps: all of it or nothing."""
        new = [Change(unit, exchange.to, at) for unit in drained[: exchange.away]]
        async with self._store.pipeline(transaction=True) as batch:
            batch.sadd(drains_of(pool), *drained)
            if new:
                batch.hset(swaps_of(exchange.pair), mapping=_encoded(new))
            await batch.execute()

    async def asked(self, pair: str, changes: Sequence[Change], before: Collection[str]) -> None:
        """Note that starts in free places are about to be asked for."""
        if changes:
            names = tuple(sorted(before))
            noted = [replace(each, before=names) for each in changes]
            await self._store.hset(swaps_of(pair), mapping=_encoded(noted))

    async def end(self, pair: str, changes: Sequence[Change]) -> None:
        """Forget swaps that are over."""
        if changes:
            await self._store.hdel(swaps_of(pair), *(each.unit for each in changes))


def _encoded(changes: Sequence[Change]) -> dict[Any, Any]:
    return {
        each.unit: json.dumps({"to": each.to, "at": each.at, "before": each.before})
        for each in changes
    }


def _decoded(unit: str, values: dict[str, Any]) -> Change:
    before = values["before"]
    return Change(unit, values["to"], values["at"], None if before is None else tuple(before))
