"""Limits are exact over all gateways, settled on what was used, and say truly when to come back."""

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import cast

import pytest
from msgspec.structs import replace
from redis.asyncio import Redis

from backends.store import connect
from gateway.call import Call, Principal, Quota, Receipt, Usage
from gateway.errors import InsufficientQuota, RateLimited, headers
from gateway.limits import Claim, Limiter, span
from gateway.limits_store import PREFIX, LimitStore
from tests.waiting import eventually


class Hands:
    """A clock that a test sets; sleeping takes no time."""

    def __init__(self) -> None:
        self.at = 1_800_000_000.0

    def now(self) -> float:
        return self.at

    def monotonic(self) -> float:
        return self.at

    async def sleep(self, delay_s: float) -> None:
        await asyncio.sleep(0)


def call(name: str, quota: Quota | None, *, key: str = "k1", tenant: str = "acme") -> Call:
    """Make what limits look at of a call."""
    principal = Principal(key_id=key, tenant=tenant, quota=quota)
    return cast(Call, SimpleNamespace(key=name, principal=principal))


def receipt(tokens: int | None, *, attempts: int = 1) -> Receipt:
    """Make what limits look at of a receipt."""
    usage = None if tokens is None else Usage(tokens // 2, tokens - tokens // 2)
    found = Receipt(cast(Call, None), attempts=attempts)
    return replace(found, usage=usage, first_byte=None if tokens is None else 1.0)


@pytest.fixture
def hands() -> Hands:
    """A clock that stands."""
    return Hands()


@pytest.fixture
async def limiter(redis: Redis, hands: Hands) -> AsyncIterator[Limiter]:
    """A limiter on the real store."""
    found = Limiter(LimitStore(redis, hands), hands, tenants={"small": Quota(requests_per_min=3)})
    yield found
    await found.aclose()


async def reserve(limiter: Limiter, asked: Call, tokens: int = 10) -> Claim:
    """Reserve a call that has limits."""
    claim = await limiter.reserve(asked, lambda: tokens)
    assert claim is not None
    return claim


def told(claim: Claim) -> dict[str, str]:
    """Give the header lines of a claim."""
    return {name.decode(): value.decode() for name, value in claim.headers}


async def test_a_caller_without_limits_costs_the_store_nothing(limiter: Limiter) -> None:
    assert await limiter.reserve(call("1", None), lambda: 1 / 0) is None


async def test_requests_per_minute(limiter: Limiter, hands: Hands) -> None:
    quota = Quota(requests_per_min=3)
    for number in range(2):
        await reserve(limiter, call(f"{number}", quota))
        hands.at += 5
    claim = await reserve(limiter, call("3", quota))
    hands.at += 5
    assert told(claim)["x-ratelimit-limit-requests"] == "3"
    assert told(claim)["x-ratelimit-remaining-requests"] == "0"
    with pytest.raises(RateLimited) as refused:
        await limiter.reserve(call("4", quota), lambda: 1)
    lines = headers(refused.value)
    assert lines["x-ratelimit-remaining-requests"] == "0"
    assert lines["retry-after"] == "46"  # the first was 15 s ago; a window spans 60.25 s
    assert refused.value.retry_after_s is not None
    hands.at += refused.value.retry_after_s - 0.01
    with pytest.raises(RateLimited):
        await limiter.reserve(call("5", quota), lambda: 1)
    hands.at += 0.02
    await reserve(limiter, call("6", quota))


async def test_tokens_are_reserved_by_estimate_and_settled_by_usage(limiter: Limiter) -> None:
    quota = Quota(tokens_per_min=100)
    claim = await reserve(limiter, call("1", quota), 80)
    assert told(claim)["x-ratelimit-remaining-tokens"] == "20"
    with pytest.raises(RateLimited) as refused:
        await limiter.reserve(call("2", quota), lambda: 30)
    assert refused.value.unit == "tokens"
    limiter.settle(claim, receipt(50))
    limiter.settle(claim, receipt(50))
    second = await reserve(limiter, call("3", quota), 30)
    assert told(second)["x-ratelimit-remaining-tokens"] == "20"
    limiter.settle(second, receipt(90))  # it used more than was thought
    with pytest.raises(RateLimited):
        await limiter.reserve(call("4", quota), lambda: 1)


async def test_a_call_that_reached_no_replica_costs_nothing(limiter: Limiter) -> None:
    quota = Quota(requests_per_min=1, tokens_per_min=100, concurrency=1)
    for number in range(5):
        claim = await reserve(limiter, call(f"{number}", quota), 100)
        limiter.settle(claim, receipt(None, attempts=0))


async def test_calls_at_once(limiter: Limiter) -> None:
    quota = Quota(concurrency=2)
    first = await reserve(limiter, call("1", quota))
    await reserve(limiter, call("2", quota))
    with pytest.raises(RateLimited, match="requests at once"):
        await limiter.reserve(call("3", quota), lambda: 1)
    limiter.settle(first, receipt(10))
    await reserve(limiter, call("4", quota))


async def test_calls_of_a_gateway_that_died_are_counted_no_more(
    limiter: Limiter, redis: Redis, hands: Hands
) -> None:
    quota = Quota(concurrency=1)
    await reserve(limiter, call("1", quota))
    other = Limiter(LimitStore(redis, hands), hands)
    hands.at += 29
    with pytest.raises(RateLimited):
        await other.reserve(call("2", quota), lambda: 1)
    hands.at += 2
    await reserve(other, call("3", quota))


async def test_the_tenants_limits_hold_besides_the_keys(limiter: Limiter) -> None:
    for number in range(3):
        asked = call(f"{number}", Quota(requests_per_min=2), key=f"k{number}", tenant="small")
        await reserve(limiter, asked)
    with pytest.raises(RateLimited):
        await limiter.reserve(call("4", None, key="k9", tenant="small"), lambda: 1)


async def test_a_refused_call_takes_of_no_limit(limiter: Limiter) -> None:
    for number in range(4):
        asked = call(f"{number}", Quota(requests_per_min=0), tenant="small")
        with pytest.raises(RateLimited):
            await limiter.reserve(asked, lambda: 1)
    await reserve(limiter, call("5", Quota(requests_per_min=1), tenant="small"))


async def test_a_budget_that_is_spent_is_final(limiter: Limiter, hands: Hands) -> None:
    quota = Quota(tokens_per_day=100, tokens_per_month=150)
    limiter.settle(await reserve(limiter, call("1", quota), 90), receipt(100))
    with pytest.raises(InsufficientQuota, match="day") as refused:
        await limiter.reserve(call("2", quota), lambda: 1)
    assert headers(refused.value) == {"x-should-retry": "false"}
    hands.at += 86_400
    await reserve(limiter, call("3", quota), 40)
    with pytest.raises(InsufficientQuota, match="month"):
        await limiter.reserve(call("4", quota), lambda: 20)


async def test_a_request_larger_than_a_minutes_tokens_is_final(limiter: Limiter) -> None:
    with pytest.raises(RateLimited, match="too large") as refused:
        await limiter.reserve(call("1", Quota(tokens_per_min=100)), lambda: 101)
    assert headers(refused.value)["x-should-retry"] == "false"


async def test_a_caller_who_leaves_while_it_is_reserved_leaves_nothing(
    limiter: Limiter, redis: Redis
) -> None:
    quota = Quota(concurrency=1)
    for turns in range(5):
        task = asyncio.create_task(limiter.reserve(call(f"{turns}", quota), lambda: 1))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        found = (await asyncio.gather(task, return_exceptions=True))[0]
        if isinstance(found, Claim):
            limiter.settle(found, receipt(None, attempts=0))
    key = f"{PREFIX}{{acme}}:c:key:k1"
    await eventually(lambda: _is_empty(redis, key))


async def _is_empty(redis: Redis, key: str) -> bool:
    return not await redis.zcard(key)


async def test_without_the_store_each_gateway_enforces_its_share(hands: Hands) -> None:
    away = connect("unix:///nonexistent/store.sock")
    limiter = Limiter(LimitStore(away, hands), hands, gateways=lambda: 2)
    quota = Quota(requests_per_min=4, concurrency=8)
    claims = [await reserve(limiter, call(f"{n}", quota)) for n in range(2)]
    with pytest.raises(RateLimited) as refused:
        await limiter.reserve(call("3", quota), lambda: 1)
    assert refused.value.retry_after_s == pytest.approx(60)
    for claim in claims:
        limiter.settle(claim, receipt(10))
    hands.at += 60
    await reserve(limiter, call("4", quota))
    await away.aclose()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0ms"), (0.0123, "12ms"), (1.5, "1.5s"), (59.25, "59.25s"), (360, "6m0s")],
)
def test_a_span_is_written_as_openai_writes_it(seconds: float, text: str) -> None:
    assert span(seconds) == text
