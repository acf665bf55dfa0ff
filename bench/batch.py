"""What does a batch cost those who wait, and what does it get of what they leave?

    python -m bench.batch          # under four minutes; `make bench-jobs`

One gateway, one worker and simulated replicas as real processes on loopback. The same schedule of
interactive calls is sent twice: alone, and while a batch of 10,000 rows of the same sizes runs on
the same replicas. Idle capacity is what the replicas carry within interactive's limits by their own
law, less the interactive calls; the batch's share is its rows per second over that.
"""

import argparse
import asyncio
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random

import aiohttp
import orjson
import uvloop

from backends.capacity import Mix, carried
from backends.hardware import profile
from backends.slo import MLPERF_CLASSES
from backends.store import open_store
from bench.slo_client import Limits, Load, Order, Result, body_of, schedule, send
from bench.slo_stack import MODEL, Fleet, gateway, idle, replicas, worker

WARM_S = 25.0  # rows on a deep replica take that long to make room for a class with a promise
BEGIN_WITHIN_S = 60.0


@dataclass(frozen=True, slots=True)
class Found:
    """Shares of interactive calls within their limits, and what the batch did meanwhile."""

    interactive_per_s: float
    attained_alone: float
    attained_beside: float
    ttft_p99_ms: tuple[float, float]
    tpot_p99_ms: tuple[float, float]
    client_late_p99_ms: tuple[float, float]
    refusals: dict[str, int]
    rows_per_s: float
    rows_failed: int
    idle_per_s: float

    @property
    def lost_points(self) -> float:
        """Percentage points of attainment that the batch cost."""
        return 100 * (self.attained_alone - self.attained_beside)

    @property
    def share_of_idle(self) -> float:
        """What the batch got of what was left."""
        return self.rows_per_s / self.idle_per_s

    def table(self) -> str:
        """Give it for people."""
        rows = {
            **asdict(self),
            "lost_points": round(self.lost_points, 2),
            "share_of_idle": f"{self.share_of_idle:.1%}",
        }
        return "\n".join(f"{name:20} {value}" for name, value in rows.items())


async def measure(options: argparse.Namespace, directory: Path) -> Found:
    """Send the schedule twice."""
    targets = next(c for c in MLPERF_CLASSES if c.name == "interactive").targets(MODEL)
    limits = Limits(targets.ttft_s, targets.tpot_s)
    load = Load()
    mix = Mix(sum(load.prompt_tokens) / 2, sum(load.output_tokens) / 2, 1.08)
    law = profile(MODEL, "mi355x").law.scaled(options.scale)
    full_per_s = options.replicas * carried(law, mix, targets).calls_per_s
    per_s = options.load * full_per_s
    orders = schedule(per_s, WARM_S + options.seconds, load, options.seed)
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        store = await enter(open_store(None, directory / "store"))
        urls = await enter(replicas(Fleet([options.scale] * options.replicas), directory))
        url = await enter(gateway(urls, {}, directory, store.url))
        await enter(worker(directory, store.url))
        alone = _counted(await send(url, MODEL, orders, options.seed))
        await idle(urls)
        async with aiohttp.ClientSession(base_url=f"{url}/") as session:
            batch = await _begin(session, _rows(options.rows, load, options.seed))
            sending = asyncio.create_task(send(url, MODEL, orders, options.seed))
            await asyncio.sleep(WARM_S)
            first = await _counts(session, batch)
            await asyncio.sleep(options.seconds)
            last = await _counts(session, batch)
            beside = _counted(await sending)
            async with session.post(f"batches/{batch}/cancel") as answer:
                answer.raise_for_status()
    return Found(
        interactive_per_s=round(per_s, 2),
        attained_alone=_share(alone, limits),
        attained_beside=_share(beside, limits),
        ttft_p99_ms=(_p99([r.first_s for r in alone]), _p99([r.first_s for r in beside])),
        tpot_p99_ms=(_p99([r.tpot_s for r in alone]), _p99([r.tpot_s for r in beside])),
        client_late_p99_ms=(_p99([r.late_s for r in alone]), _p99([r.late_s for r in beside])),
        refusals=dict(Counter(r.code for r in beside if r.code)),
        rows_per_s=round((last["completed"] - first["completed"]) / options.seconds, 2),
        rows_failed=last["failed"],
        idle_per_s=round(full_per_s - per_s, 2),
    )


def _rows(count: int, load: Load, seed: int) -> bytes:
    """Write a batch of calls of the same sizes as the interactive ones."""
    dice = Random(seed + 1)
    lines = []
    for number in range(count):
        order = Order(
            0.0, "offline", dice.randint(*load.prompt_tokens), dice.randint(*load.output_tokens)
        )
        body = orjson.loads(body_of(MODEL, order, dice))
        for name in ("stream", "stream_options", "service_tier"):
            body.pop(name, None)
        row = {"custom_id": f"row-{number}", "method": "POST", "url": "/v1/chat/completions"}
        lines.append(orjson.dumps({**row, "body": body}))
    return b"\n".join(lines)


async def _begin(session: aiohttp.ClientSession, rows: bytes) -> str:
    """Make a batch and wait until its first rows are done."""
    form = aiohttp.FormData({"purpose": "batch"})
    form.add_field("file", rows, filename="rows.jsonl")
    async with session.post("files", data=form) as answer:
        answer.raise_for_status()
        file_id = (await answer.json())["id"]
    asked = {"input_file_id": file_id, "endpoint": "/v1/chat/completions"}
    async with session.post("batches", json={**asked, "completion_window": "24h"}) as answer:
        answer.raise_for_status()
        batch: str = (await answer.json())["id"]
    async with asyncio.timeout(BEGIN_WITHIN_S):
        while not (await _counts(session, batch))["completed"]:  # noqa: ASYNC110 not ours
            await asyncio.sleep(0.1)
    return batch


async def _counts(session: aiohttp.ClientSession, batch: str) -> dict[str, int]:
    async with session.get(f"batches/{batch}") as answer:
        answer.raise_for_status()
        found: dict[str, int] = (await answer.json())["request_counts"]
    return found


def _counted(results: Sequence[Result]) -> list[Result]:
    return [each for each in results if each.order.at_s >= WARM_S]


def _share(results: Sequence[Result], limits: Limits) -> float:
    return round(sum(each.is_good(limits) for each in results) / max(len(results), 1), 4)


def _p99(values: Sequence[float | None]) -> float:
    known = sorted(v for v in values if v is not None)
    return round(known[int(0.99 * (len(known) - 1))] * 1e3, 1) if known else 0.0


async def _main(options: argparse.Namespace) -> int:
    with tempfile.TemporaryDirectory(prefix="sluice-bench-") as name:
        found = await measure(options, Path(name))
    print(found.table())
    if options.json:
        options.json.write_text(json.dumps(asdict(found), indent=1))
    return 0 if found.lost_points <= 0.5 and found.share_of_idle >= 0.9 else 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; status 1 where a bar was missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--replicas", type=int, default=8)
    parser.add_argument("--scale", type=float, default=0.03, help="of an MI355X's throughput")
    parser.add_argument("--load", type=float, default=0.5, help="interactive, of what is carried")
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=60.0, help="counted, each time")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write the figures there")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_main(parser.parse_args(arguments)))


if __name__ == "__main__":
    sys.exit(main())
