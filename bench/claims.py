"""How many jobs a second can eight workers claim and end on one store?

    python -m bench.claims         # seconds

Each worker is a connection of its own that submits nothing: 20,000 videos wait already. CPU time is
told besides: where other work takes the cores, the rate is theirs, and the store's own CPU per job
is what bounds it elsewhere (the store serves all scripts on one core).
"""

import asyncio
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import uvloop
from redis.asyncio import Redis

from backends.store import connect, open_store
from gateway.jobs.model import JobKind, NewJob, Offer
from gateway.jobs.store import JobStore

JOBS, WORKERS, POOL = 20_000, 8, "claims"
REPLICAS = 64


async def _claim_all(url: str, worker: int) -> int:
    redis = connect(url)
    jobs, claimed = JobStore(redis), 0
    ids = tuple(f"r{n}" for n in range(worker, REPLICAS, WORKERS))
    offers = [Offer(POOL, ("server",), ids)]
    try:
        while True:
            now = time.time()
            claim = await jobs.claim(f"w{worker}", offers, nonce=f"{claimed}", now=now)
            if claim is None:
                return claimed
            claimed += 1
            await jobs.complete(claim, {"artifact": "a"}, now=now)
    finally:
        await redis.aclose()


async def _main() -> int:
    with tempfile.TemporaryDirectory(prefix="sluice-bench-") as name:
        async with open_store(None, Path(name)) as store:
            redis = connect(store.url)
            jobs, now = JobStore(redis), time.time()
            for n in range(JOBS):
                await jobs.submit(
                    NewJob(
                        id=f"video_{n}",
                        kind=JobKind.VIDEO,
                        tenant="t",
                        pool=POOL,
                        class_name="server",
                        rank=1,
                        payload={},
                        units=1.0,
                        deadline=now + 3600,
                        ttl_s=60.0,
                    ),
                    now=now,
                )
            began, store_began, own_began = (
                time.monotonic(),
                await _cpu_s(redis),
                time.process_time(),
            )
            counts = await asyncio.gather(*(_claim_all(store.url, n) for n in range(WORKERS)))
            took_s = time.monotonic() - began
            store_s, own_s = await _cpu_s(redis) - store_began, time.process_time() - own_began
            await redis.aclose()
    done = sum(counts)
    print(f"{done} claimed and ended by {WORKERS} workers: {done / took_s:.0f} per s")
    print(f"CPU per job: store {1e6 * store_s / done:.0f} us, workers {1e6 * own_s / done:.0f} us")
    print(f"load over the last minute: {os.getloadavg()[0]:.1f} on {os.cpu_count()} CPUs")
    return 0 if done == JOBS else 1


async def _cpu_s(redis: Redis) -> float:
    """Give the CPU time that the store has used, in seconds."""
    found: dict[str, Any] = await redis.info("cpu")
    return float(found["used_cpu_user"]) + float(found["used_cpu_sys"])


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        sys.exit(runner.run(_main()))
