"""How many calls a second can one store order? Against an empty script, in the same run.

    python -m bench.ledger --seconds 3 --gateways 2 --replicas 87

Each gateway is a process that takes slots, notes first tokens and gives slots back as fast as it
can, with so many calls at a time. Reported: calls and scripts per second, CPU of the store per
call, and the same of a bare EVALSHA of an empty script, one at a time per connection.
"""

import argparse
import asyncio
import json
import multiprocessing
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
from redis.asyncio import Redis

from backends.store import connect, open_store
from gateway.queue.ledger import Ask, Candidate, Cost
from gateway.queue.redis_ledger import RedisLedger

MODEL = "bench"


async def _cpu_s(redis: Redis) -> float:
    found: dict[str, Any] = await redis.info("cpu")
    return float(found["used_cpu_sys"]) + float(found["used_cpu_user"])


async def _commands(redis: Redis) -> int:
    found: dict[str, Any] = await redis.info("commandstats")
    return int(found.get("cmdstat_evalsha", {}).get("calls", 0))


async def _empty_scripts(url: str, seconds: float, connections: int) -> dict[str, float]:
    redis = connect(url)
    digest = await redis.script_load("return 1")
    before, started, count = await _cpu_s(redis), time.perf_counter(), 0

    async def one() -> None:
        nonlocal count
        while time.perf_counter() < started + seconds:
            await redis.evalsha(digest, 1, "k", "a", "b")
            count += 1

    await asyncio.gather(*(one() for _ in range(connections)))
    took, cpu = time.perf_counter() - started, await _cpu_s(redis) - before
    await redis.aclose()
    return {"per_s": count / took, "store_us": cpu / count * 1e6}


async def _gateway(options: argparse.Namespace) -> dict[str, float]:
    redis = connect(options.url)
    ledger = RedisLedger(redis)
    listening = asyncio.create_task(ledger.run())
    candidates = [Candidate(f"replica-{n}", options.slots) for n in range(options.replicas)]
    ledger.offer(MODEL, tuple(candidates))
    calls, waited = 0, 0
    started = time.perf_counter()
    cpu = time.process_time()

    async def one(number: int) -> None:
        nonlocal calls, waited
        at = number
        while time.perf_counter() < started + options.seconds:
            at += 1
            cut = at % len(candidates)
            ask = Ask(
                call_id=f"{number}",
                model=MODEL,
                candidates=(*candidates[cut:], *candidates[:cut]),
                rank=number % 3,
                tenant=f"tenant-{number % 10}",
                first_token_by=time.time() + 2,
                work_s=0.02,
                cost=Cost(1, 600, 300),
            )
            slot = await ledger.acquire(ask, within_s=60)
            waited += slot.waited_s > 0.005
            await asyncio.sleep(options.hold_s)
            ledger.first_token(slot)
            await asyncio.sleep(0)
            ledger.release(slot)
            calls += 1

    await asyncio.gather(*(one(n) for n in range(options.calls)))
    took, cpu = time.perf_counter() - started, time.process_time() - cpu
    listening.cancel()
    await asyncio.wait([listening])
    await ledger.aclose()
    await redis.aclose()
    return {"calls": calls, "took": took, "cpu": cpu, "waited": waited}


def _work(options: argparse.Namespace, results: Any) -> None:
    results.put(asyncio.run(_gateway(options)))


async def main(options: argparse.Namespace) -> dict[str, Any]:
    """Measure, and give what was found."""
    with tempfile.TemporaryDirectory() as directory:
        async with open_store(options.url, Path(directory)) as store:
            options.url = store.url
            bare = await _empty_scripts(store.url, options.seconds, 16)
            redis = connect(store.url)
            cpu, scripts = await _cpu_s(redis), await _commands(redis)
            spawn = multiprocessing.get_context("spawn")
            results = spawn.Queue()
            workers = [
                spawn.Process(target=_work, args=(options, results))
                for _ in range(options.gateways)
            ]
            for each in workers:
                each.start()
            found = [await asyncio.to_thread(results.get) for _ in workers]
            for each in workers:
                each.join()
            cpu, scripts = await _cpu_s(redis) - cpu, await _commands(redis) - scripts
            left = [key async for key in redis.scan_iter("sluice:queue:*:on:*")]
            await redis.aclose()
    calls = sum(each["calls"] for each in found)
    per_s = sum(each["calls"] / each["took"] for each in found)
    return {
        "empty script": {k: round(v, 1) for k, v in bare.items()},
        "calls_per_s": round(per_s),
        "scripts_per_s": round(scripts / found[0]["took"]),
        "store_us_per_call": round(cpu / calls * 1e6, 1),
        "store_us_per_script": round(cpu / scripts * 1e6, 1),
        "calls_per_s_of_a_busy_store": round(calls / cpu),
        "gateway_us_per_call": round(sum(each["cpu"] for each in found) / calls * 1e6, 1),
        "waited": round(sum(each["waited"] for each in found) / calls, 3),
        "store_per_call_over_empty_script": round(cpu / calls * 1e6 / bare["store_us"], 2),
        "leases_left": len(left),
    }


def options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default=os.environ.get("REDIS_URL"))
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--gateways", type=int, default=2)
    parser.add_argument("--calls", type=int, default=64, help="at a time, per gateway")
    parser.add_argument("--replicas", type=int, default=87)
    parser.add_argument("--slots", type=int, default=256, help="per replica")
    parser.add_argument("--hold-s", type=float, default=0.0)
    return parser.parse_args()


if __name__ == "__main__":
    psutil.Process().nice(5)
    sys.stdout.write(json.dumps(asyncio.run(main(options())), indent=2) + "\n")
