"""Is the promise kept at the knee, and does goodput stay past it? Real processes on loopback.

    python -m bench.slo                      # a quarter of an hour; `make bench-slo`
    python -m bench.slo --seconds 30 --mixed --classes interactive=.4,server=.4,offline=.2

One gateway before simulated replicas whose throughput is scaled down and whose latencies are real;
the same schedule for each policy. Goodput counts calls that were answered whole within TTFT and
TPOT; a refusal is a miss. `knee` is the highest rate at which `promised` keeps 99 % of the calls
(98 % where the client was late, since then the machine was the limit): rates are tried upwards or
downwards until it lies between two of them, which are then halved until they are 3 % apart. All
policies are measured at multiples of it. `wasted` is a lower bound: engines do not count prefill
that was aborted.
"""

import argparse
import asyncio
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import asdict, dataclass, field
from math import inf
from pathlib import Path

import uvloop

from backends.capacity import Mix, carried
from backends.hardware import profile
from backends.slo import MLPERF_CLASSES
from backends.store import open_store
from bench.slo_client import Limits, Load, Result, schedule, send
from bench.slo_stack import (
    MODEL,
    ROUTERS,
    Fleet,
    NotInstalled,
    done_work,
    gateway,
    idle,
    replicas,
    router,
)

WARM_S = 6.0
KNEE_FROM, KNEE_STEP, KNEE_NEAR, KNEE_TRIES = 0.95, 1.12, 1.03, 9
# The plain policies wait for nothing but the engines' own limits, which are far above what TPOT
# allows: first come, first served, in the engines' queues.
POLICIES = {
    "promised": {"routing": {"policy": "promised"}},
    "fifo+round_robin": {"routing": {"policy": "round_robin"}},
    "least_outstanding": {"routing": {"policy": "least_outstanding"}},
}


@dataclass(slots=True)
class Row:
    """One policy at one rate."""

    policy: str
    load: float
    per_s: float
    sent: int
    good: int
    good_per_s: float
    good_tokens_per_s: float
    refused: int
    left: int
    broken: int
    ttft_p99_ms: float
    tpot_p99_ms: float
    late_p99_ms: float
    wasted: float
    codes: dict[str, int] = field(default_factory=dict)
    by_class: dict[str, float] = field(default_factory=dict)


class Bench:
    """A fleet that stays up, and policies that are put before it one after the other."""

    def __init__(self, options: argparse.Namespace, directory: Path, redis_url: str) -> None:
        self._options = options
        self._directory = directory
        self._redis_url = redis_url
        self.rows: list[Row] = []
        shares = (each.split("=") for each in options.classes.split(","))
        self._load = Load(classes={name: float(share) for name, share in shares})
        self._limits = {
            c.name: Limits(c.targets(MODEL).ttft_s, c.targets(MODEL).tpot_s) for c in MLPERF_CLASSES
        }

    async def run(self) -> None:
        """Measure all that was asked for."""
        options = self._options
        scales = [options.scale] * options.replicas
        if options.mixed:
            half = options.replicas // 2
            scales = [options.scale] * half + [0.32 * options.scale] * (options.replicas - half)
        async with replicas(Fleet(scales), self._directory) as urls:
            full = self._capacity(scales)
            knee = await self._knee(urls, full)
            for policy in options.policy:
                try:
                    await self._policy(policy, urls, knee, options.load)
                except NotInstalled as missing:
                    print(f"left out: {missing}", file=sys.stderr)

    async def _knee(self, urls: Sequence[str], full: float) -> float:
        options = self._options
        if options.knee:
            return float(options.knee)
        print(f"by the law {full:.1f} calls/s; looking for the knee", file=sys.stderr)
        async with self._front("promised", urls) as url:

            async def is_kept(per_s: float) -> bool:
                row = await self._measure("knee", per_s / full, per_s, url, urls)
                print(worded(row), file=sys.stderr)
                enough = 0.99 if row.late_p99_ms < 20.0 else 0.98
                return row.good >= enough * row.sent

            return await search(is_kept, KNEE_FROM * full)

    async def _policy(
        self, policy: str, urls: Sequence[str], knee: float, loads: Sequence[float]
    ) -> None:
        async with self._front(policy, urls) as url:
            for load in loads:
                row = await self._measure(policy, load, load * knee, url, urls)
                self.rows.append(row)
                print(worded(row), file=sys.stderr)

    def _front(self, policy: str, urls: Sequence[str]) -> AbstractAsyncContextManager[str]:
        if policy in ROUTERS:
            return router(policy, urls, self._directory)
        return gateway(urls, POLICIES[policy], self._directory, self._redis_url)

    async def _measure(
        self, policy: str, load: float, per_s: float, url: str, urls: Sequence[str]
    ) -> Row:
        seconds = self._options.seconds
        orders = schedule(per_s, WARM_S + seconds, self._load, self._options.seed)
        before = await done_work(urls)
        results = await send(url, MODEL, orders, self._options.seed)
        await idle(urls)
        after = await done_work(urls)
        counted = [r for r in results if r.order.at_s >= WARM_S]
        done = sum(b - a for a, b in zip(before, after, strict=True))
        useful = sum(r.tokens + r.order.prompt_tokens for r in results if r.whole)
        return self._row(policy, load, per_s, counted, 1.0 - min(useful / max(done, 1), 1.0))

    def _row(
        self, policy: str, load: float, per_s: float, results: Sequence[Result], wasted: float
    ) -> Row:
        good = [r for r in results if r.is_good(self._limits[r.order.class_name])]
        seconds = self._options.seconds
        sent = Counter(r.order.class_name for r in results)
        kept = Counter(r.order.class_name for r in good)
        return Row(
            policy=policy,
            load=load,
            per_s=per_s,
            sent=len(results),
            good=len(good),
            good_per_s=len(good) / seconds,
            good_tokens_per_s=sum(r.tokens for r in good) / seconds,
            refused=sum(r.status in (429, 503) for r in results),
            left=sum(r.left for r in results),
            broken=sum(r.status == 200 and not r.whole and not r.left for r in results),
            ttft_p99_ms=_p99([r.first_s for r in results]),
            tpot_p99_ms=_p99([r.tpot_s for r in results]),
            late_p99_ms=_p99([r.late_s for r in results]),
            wasted=wasted,
            codes=dict(Counter(r.code for r in results if r.code)),
            by_class={name: kept[name] / sent[name] for name in sorted(sent)},
        )

    def _capacity(self, scales: Sequence[float]) -> float:
        law = profile(MODEL, "mi355x").law
        prompt = sum(self._load.prompt_tokens) / 2
        low, high = self._load.output_tokens
        mix = Mix(prompt, (low + high) / 2, 1.08)
        targets = next(c for c in MLPERF_CLASSES if c.name in self._load.classes).targets(MODEL)
        return sum(carried(law.scaled(s), mix, targets).calls_per_s for s in scales)


async def search(is_kept: Callable[[float], Awaitable[bool]], first: float) -> float:
    """Find the highest rate that is kept, within 3 %, by nine tries at most.

    Where none of the tried ones was kept, the lowest of them.
    """
    rate, low, high = first, 0.0, inf
    for _ in range(KNEE_TRIES):
        if await is_kept(rate):
            low = rate
        else:
            high = rate
        if low and high < inf:
            if high / low <= KNEE_NEAR:
                break
            rate = (low * high) ** 0.5
        else:
            rate = low * KNEE_STEP if low else high / KNEE_STEP
    return low or high


def worded(row: Row) -> str:
    """Word one row for people."""
    classes = " ".join(f"{name} {share:.1%}" for name, share in row.by_class.items())
    return (
        f"{row.policy:17} {row.load:4.2f}x {row.per_s:6.1f}/s  good {row.good_per_s:6.2f}/s "
        f"({row.good / max(row.sent, 1):6.1%}) {row.good_tokens_per_s:6.0f} tok/s  "
        f"refused {row.refused} left {row.left} broken {row.broken}  p99 {row.ttft_p99_ms:.0f} ms "
        f"/ {row.tpot_p99_ms:.1f} ms  wasted {row.wasted:.1%}  client late {row.late_p99_ms:.1f} ms"
        f"  {classes} {row.codes}"
    )


def table(rows: Sequence[Row]) -> str:
    """Give goodput of each policy over that of `promised` at the knee."""
    base = next((r for r in rows if r.policy == "promised" and r.load == 1.0), None)
    if base is None or not base.good:
        return "no base"
    loads = sorted({r.load for r in rows})
    lines = ["", "goodput over that of `promised` at the knee (calls / tokens)"]
    lines.append(f"{'':18}" + "".join(f"{load:>15.1f}x" for load in loads))
    for policy in dict.fromkeys(r.policy for r in rows):
        cells = ""
        for load in loads:
            row = next((r for r in rows if r.policy == policy and r.load == load), None)
            cell = "-"
            if row is not None:
                calls = row.good_per_s / base.good_per_s
                cell = f"{calls:.2f} / {row.good_tokens_per_s / base.good_tokens_per_s:.2f}"
            cells += f"{cell:>16}"
        lines.append(f"{policy:18}{cells}")
    return "\n".join(lines)


def _p99(values: Sequence[float | None]) -> float:
    known = sorted(v for v in values if v is not None)
    return known[int(0.99 * (len(known) - 1))] * 1e3 if known else 0.0


async def _main(options: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory(prefix="sluice-bench-") as name:
        directory = Path(name)
        async with open_store(None, directory / "store") as store:
            bench = Bench(options, directory, store.url)
            await bench.run()
    print(table(bench.rows))
    if options.json:
        options.json.write_text(json.dumps([asdict(r) for r in bench.rows], indent=1))


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print."""
    known = [*POLICIES, *ROUTERS]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--replicas", type=int, default=8)
    parser.add_argument("--scale", type=float, default=0.05, help="of an MI355X's throughput")
    parser.add_argument("--mixed", action="store_true", help="half of them at 0.32 of the speed")
    parser.add_argument("--classes", default="interactive=1")
    parser.add_argument("--load", type=float, nargs="+", default=[1.0, 1.3, 2.0, 5.0])
    parser.add_argument("--policy", nargs="+", choices=known, default=known)
    parser.add_argument("--knee", type=float, default=0.0, help="calls per second; 0: look for it")
    parser.add_argument("--seconds", type=float, default=15.0, help="counted, per rate and policy")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write all rows there")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_main(parser.parse_args(arguments)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
