"""What may a tenant's next call cost, over all gateways? Asked of the store in batches.

One batch per tenant is under way at a time; what comes up meanwhile makes the next one. Whatever
is sent twice counts once, so a batch whose answer was lost may be repeated.
"""

import asyncio
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError

from backends.clock import Clock
from gateway.call import Quota
from gateway.scripts import Script

PREFIX = "sluice:limits:"
ANSWER_S = 1.0
REST_S = 1.0  # after a failure the store is left alone this long, and nobody waits for it
MOST_UNSETTLED = 100_000
MOST_OPERATIONS = 500


@dataclass(frozen=True, slots=True)
class Room:
    """A limit per minute, what is left of it, and the seconds until all of it is there again."""

    limit: int
    remaining: int
    reset_s: float


@dataclass(frozen=True, slots=True)
class Answer:
    """Whether a call may go on.

    `exhausted` is None, `requests`, `tokens` or `concurrency` (room in `after_s` seconds), `size`
    (larger than a minute's tokens), `day` or `month` (the budget); `limit` is its limit.
    """

    exhausted: str | None = None
    after_s: float = 0.0
    limit: int = 0
    requests: Room | None = None
    tokens: Room | None = None


class StoreAway(Exception):
    """The store cannot be asked now."""


@dataclass(slots=True)
class _Line:
    """What is to be sent of one tenant; an operation with nobody to tell is a settlement."""

    waiting: deque[tuple[tuple[Any, ...], "asyncio.Future[Answer] | None"]]
    task: asyncio.Task[None] | None = None


class LimitStore:
    """The windows, counts and budgets in the store."""

    def __init__(self, redis: Redis, clock: Clock) -> None:
        self._redis = redis
        self._clock = clock
        self._script = Script("gateway", "limits.lua")
        self._lines: dict[str, _Line] = {}
        self._rests_until = float("-inf")

    async def reserve(
        self, tenant: str, call_id: str, tokens: int, quotas: Mapping[str, Quota]
    ) -> Answer:
        """Reserve a call of so many tokens for all subjects, or for none. Raises StoreAway."""
        if self._clock.monotonic() < self._rests_until:
            raise StoreAway
        told: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        subjects = [each for name, quota in quotas.items() for each in _subject(name, quota)]
        self._send(tenant, ("r", call_id, tokens, len(quotas), *subjects), told)
        return await told

    def settle(self, tenant: str, call_id: str, tokens: int, *, counts: bool) -> None:
        """Tell what a call was in truth; kept until the store answers."""
        self._send(tenant, ("s", call_id, tokens, int(counts)), None)

    def renew(self, tenant: str, call_ids: Sequence[str]) -> None:
        """Tell that calls still run."""
        for call_id in call_ids:
            self._send(tenant, ("h", call_id), None)

    async def flush(self) -> None:
        """Send what is left, if the store answers."""
        for tenant in [*self._lines]:
            self._start(tenant)
        tasks = [line.task for line in self._lines.values() if line.task is not None]
        if tasks:
            await asyncio.wait(tasks)

    def retry(self) -> None:
        """Send what could not be sent before."""
        for tenant in [*self._lines]:
            self._start(tenant)

    def _send(
        self, tenant: str, operation: tuple[Any, ...], told: "asyncio.Future[Answer] | None"
    ) -> None:
        line = self._lines.setdefault(tenant, _Line(deque()))
        line.waiting.append((operation, told))
        if len(line.waiting) > MOST_UNSETTLED:
            line.waiting.popleft()
        self._start(tenant)

    def _start(self, tenant: str) -> None:
        line = self._lines[tenant]
        if line.task is None and self._clock.monotonic() >= self._rests_until:
            line.task = asyncio.create_task(self._exchange(tenant, line), name="limits")

    async def _exchange(self, tenant: str, line: _Line) -> None:
        batch: list[tuple[tuple[Any, ...], asyncio.Future[Answer] | None]] = []
        try:
            while line.waiting:
                size = min(len(line.waiting), MOST_OPERATIONS)
                batch = [line.waiting.popleft() for _ in range(size)]
                operations = [each for operation, _ in batch for each in operation]
                async with asyncio.timeout(ANSWER_S):
                    answers = await self._script(
                        self._redis,
                        [f"{PREFIX}{{{tenant}}}"],
                        [*_instants(self._clock.now()), *operations],
                    )
                for (_, told), answer in zip(batch, answers, strict=True):
                    if told is not None and not told.done():
                        told.set_result(_answer(answer))
            self._lines.pop(tenant, None)
        except (RedisError, OSError, TimeoutError):
            self._rests_until = self._clock.monotonic() + REST_S
            self._give_up(line, batch)
        finally:
            line.task = None

    def _give_up(
        self,
        line: _Line,
        batch: "list[tuple[tuple[Any, ...], asyncio.Future[Answer] | None]]",
    ) -> None:
        """Let those who wait go on without the store, and keep what is to be settled."""
        unsent = [*batch, *line.waiting]
        line.waiting.clear()
        for operation, told in unsent:
            if told is None:
                line.waiting.append((operation, None))
                continue
            # It may have been reserved; if so it is taken back, for it is counted elsewhere.
            line.waiting.append((("s", operation[1], 0, 0), None))
            if not told.done():
                told.set_exception(StoreAway())


def _subject(name: str, quota: Quota) -> tuple[Any, ...]:
    limits = (
        quota.requests_per_min,
        quota.tokens_per_min,
        quota.concurrency,
        quota.tokens_per_day,
        quota.tokens_per_month,
    )
    return (name, *("" if each is None else each for each in limits))


def _instants(now: float) -> tuple[str, str, str, str, str]:
    at = datetime.fromtimestamp(now, UTC)
    day = at.replace(hour=0, minute=0, second=0, microsecond=0)
    next_month = (day.replace(day=1) + timedelta(days=32)).replace(day=1)
    return (
        repr(now),
        f"{day:%Y%m%d}",
        repr((day + timedelta(days=1)).timestamp()),
        f"{day:%Y%m}",
        repr(next_month.timestamp()),
    )


def _answer(text: bytes) -> Answer:
    words = text.decode().split()
    exhausted = None if words[0] == "ok" else words[0]
    return Answer(exhausted, float(words[1]), int(words[2]), _room(words[3:6]), _room(words[6:9]))


def _room(words: list[str]) -> Room | None:
    if words[0] == "-":
        return None
    return Room(int(words[0]), int(words[1]), float(words[2]))
