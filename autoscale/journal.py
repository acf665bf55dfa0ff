"""What was decided, when and why? A bounded stream in the store that anybody may read."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis

from autoscale.forecast import Forecast
from autoscale.plan import Plan, PoolView
from autoscale.policy import Policy
from backends.autoscaling import JOURNAL, STATE

MOST_ENTRIES = 20_000


@dataclass(frozen=True, slots=True)
class Alternative:
    """What another number of units was expected to cost: unit-seconds per hour, misses priced."""

    units: int
    running_s: float
    misses_s: float
    price: float

    @property
    def cost_s(self) -> float:
        """Running and priced misses together, in unit-seconds per hour."""
        return self.running_s + self.price * self.misses_s


def alternatives(plan: Plan, forecast: Forecast, policy: Policy) -> tuple[Alternative, ...]:
    """Price the chosen number and its neighbours by the forecast's distribution.

    The expected misses of n units are the integral of the tail above n, read off the forecast's
    quantiles by the trapezoidal rule.
    """
    numbers = {max(plan.target + change, policy.least) for change in (-2, -1, 0, 1, 2)}
    return tuple(
        Alternative(n, n * 3600.0, expected_misses(forecast, n) * 3600.0, plan.price)
        for n in sorted(numbers)
    )


def expected_misses(forecast: Forecast, units: float) -> float:
    """Give E[(work - units)+] per second at the forecast's horizon."""
    steps = [0.005 + 0.99 * i / 60 for i in range(61)]
    over = [max(forecast.upper(q) - units, 0.0) for q in steps]
    pairs = zip(steps, steps[1:], over, over[1:], strict=False)
    return sum((b - a) * (x + y) / 2 for a, b, x, y in pairs)


def entry(
    pool: str,
    plan: Plan,
    view: PoolView,
    forecast: Forecast,
    policy: Policy,
    *,
    fence: int,
    done: str,
    ended: int = 0,
    kinds: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """Put a decision into plain values; `done` says what became of it, `ended` counts the units
    that were ended because they had failed or answered no more, `kinds` tells what is done with
    each kind of a pool that has several (what is counted in units is then in those of the first).
    """
    return {
        **({"kinds": list(kinds)} if kinds else {}),
        "at": plan.at,
        "pool": pool,
        "fence": fence,
        "done": done,
        "target": plan.target,
        "start": plan.start,
        "cancel": plan.cancel,
        "drain": plan.drain,
        "give_up": plan.give_up,
        "ended": ended,
        "guard": plan.guard.value,
        "signal": {
            "level": round(forecast.level, 4),
            "ready": view.ready,
            "starting": len(view.starting),
            "draining": view.draining,
            "stuck": view.stuck,
            "waiting_s": round(view.waiting_s, 3),
            "oldest_wait_s": round(view.oldest_wait_s, 3),
            "blind": view.blind,
            "cold_start_s": round(view.cold_start_s, 1),
        },
        "forecast": {
            "wanted": round(plan.wanted, 3),
            "held": round(plan.held, 3),
            "quantile": round(plan.quantile, 4),
            "price": round(plan.price, 2),
            "budget_spent": round(plan.spent, 3),
            "horizon_s": round(forecast.horizon_s, 1),
            "season_trust": round(forecast.season_trust, 3),
            "by_record": forecast.by_record,
            "shift": round(forecast.shift, 3),
        },
        "alternatives": [
            {
                "units": each.units,
                "cost_s": round(each.cost_s, 1),
                "misses_s": round(each.misses_s, 2),
            }
            for each in alternatives(plan, forecast, policy)
        ],
    }


class Journal:
    """Writes and reads entries."""

    def __init__(self, store: Redis, *, most: int = MOST_ENTRIES) -> None:
        self._store = store
        self._most = most

    async def write(self, record: Mapping[str, Any]) -> None:
        """Append an entry; raises RedisError."""
        body = json.dumps(record, separators=(",", ":"))
        fields: dict[Any, Any] = {"entry": body}
        await self._store.xadd(JOURNAL, fields, maxlen=self._most, approximate=True)

    async def state(self, pool: str, record: Mapping[str, Any]) -> None:
        """Keep the newest decision of a pool, action or not; raises RedisError."""
        await self._store.hset(STATE, pool, json.dumps(record, separators=(",", ":")))

    async def last(
        self, *, at: float | None = None, pool: str | None = None, count: int = 20
    ) -> Sequence[Mapping[str, Any]]:
        """Read the newest entries not later than an instant, newest first; raises RedisError."""
        found: list[Mapping[str, Any]] = []
        upper = "+"
        while len(found) < count:
            batch: Any = await self._store.xrevrange(JOURNAL, max=upper, count=200)
            if not batch:
                break
            for _, fields in batch:
                record = json.loads(fields[b"entry"])
                late = at is not None and record["at"] > at
                if not late and (pool is None or record["pool"] == pool):
                    found.append(record)
            upper = "(" + batch[-1][0].decode()
        return found[:count]
