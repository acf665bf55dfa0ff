"""Limits add up over four gateway processes under a burst."""

import asyncio
import json
import subprocess
import sys
from types import SimpleNamespace
from typing import cast

import pytest

from backends.clock import SystemClock
from backends.store import connect
from gateway.call import Call, Principal, Quota, Receipt, Usage
from gateway.errors import RateLimited
from gateway.limits import Limiter
from gateway.limits_store import LimitStore

PROCESSES = 4
REQUESTS, TOKENS, AT_ONCE = 1500, 60_000, 40
PATIENCE = 30  # refusals after which a caller gives up


async def burst(url: str, name: str) -> dict[str, int]:
    """Call as fast as possible, all kinds at once; give what was let in."""
    redis = connect(url)
    limiter = Limiter(LimitStore(redis, SystemClock()), SystemClock())
    found = {"requests": 0, "tokens": 0, "concurrency": 0, "refused": 0}
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    await asyncio.to_thread(sys.stdin.readline)

    async def caller(number: int, kind: str, quota: Quota) -> None:
        principal = Principal(key_id=kind, tenant="acme", quota=quota)
        count, refused = 0, 0
        while refused < PATIENCE:
            count += 1
            call = cast(
                Call, SimpleNamespace(key=f"{name}:{kind}:{number}:{count}", principal=principal)
            )
            try:
                claim = await limiter.reserve(call, lambda: 100)
            except RateLimited:
                refused += 1
                found["refused"] += 1
                await asyncio.sleep(0.002)
                continue
            found[kind] += 60 if kind == "tokens" else 1
            if kind == "concurrency":
                continue  # it never ends
            receipt = Receipt(call, attempts=1)
            receipt.usage = Usage(40, 20)
            limiter.settle(claim, receipt)

    await asyncio.gather(
        *(caller(n, "requests", Quota(requests_per_min=REQUESTS)) for n in range(4)),
        *(caller(n, "tokens", Quota(tokens_per_min=TOKENS)) for n in range(4)),
        *(caller(n, "concurrency", Quota(concurrency=AT_ONCE)) for n in range(2)),
    )
    await limiter.aclose()
    await redis.aclose()
    return found


@pytest.mark.system
async def test_four_processes_together_keep_within_the_limits(redis_url: str) -> None:
    program = (
        "import asyncio, json, sys; from tests.gateway.test_limits_processes import burst;"
        "print(json.dumps(asyncio.run(burst(*sys.argv[1:]))))"
    )
    workers = [
        await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", program, redis_url, f"g{n}"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        for n in range(PROCESSES)
    ]
    for each in workers:
        assert each.stdout is not None
        assert await each.stdout.readline() == b"ready\n"
    found = [
        json.loads(told[0])
        for told in await asyncio.gather(*(each.communicate(b"go\n") for each in workers))
    ]
    total = {name: sum(each[name] for each in found) for name in found[0]}
    assert total["requests"] == REQUESTS
    # Settled on less than was reserved, so the last calls may still find room, or not quite.
    assert TOKENS - 100 * PROCESSES * 4 <= total["tokens"] <= TOKENS * 1.01
    assert total["concurrency"] == AT_ONCE
    assert total["refused"] > 0
    assert sum(each["requests"] > 0 for each in found) == PROCESSES
