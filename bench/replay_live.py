"""Does `sluice replay` foresee what real processes do? The same calls, both ways.

    python -m bench.replay_live                          # three minutes
    python -m bench.replay_live --loads 0.7 1.0 1.5 --seconds 60

One gateway before simulated replicas as real processes on loopback, offered a Poisson schedule by
an open-loop client; then the same schedule in virtual time with `autoscale.replay` on as many
replicas of the same law. `load` is in multiples of what the capacity law says that the replicas
carry. Goodput counts calls answered whole within TTFT and TPOT; a refusal is a miss. The first
seconds warm both up alike and count for neither.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import uvloop

from autoscale.baselines import StaticPeak
from autoscale.replay.kind import Kind
from autoscale.replay.world import replay
from autoscale.traces import Arrival
from backends.capacity import Mix, carried
from backends.hardware import profile
from backends.slo import MLPERF_CLASSES
from backends.store import open_store
from bench.slo_client import Limits, Load, Order, Result, schedule, send
from bench.slo_stack import MODEL, Fleet, gateway, idle, replicas

CLASS = "interactive"
REPLICAS = 4
SCALE = 0.1
LOAD = Load()


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a schedule: good calls, calls refused, p99 of TTFT (s) of those answered."""

    good: int
    refused: int
    ttft_p99_s: float


def kind() -> Kind:
    """Say what one replica of the benchmark is."""
    base = profile(MODEL, "mi355x")
    mean = [sum(bounds) / 2 for bounds in (LOAD.prompt_tokens, LOAD.output_tokens)]
    classes = {each.name: each for each in MLPERF_CLASSES}
    return Kind(base, classes, base.law.scaled(SCALE), Mix(mean[0], mean[1], 1.1))


async def live(orders: Sequence[Order]) -> list[Result]:
    """Offer a schedule to real processes."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        fleet = Fleet((SCALE,) * REPLICAS)
        async with (
            open_store(None, directory / "store") as store,
            replicas(fleet, directory) as urls,
            gateway(urls, {}, directory, store.url) as url,
        ):
            results = await send(url, MODEL, orders, seed=1)
            await idle(urls)
            return results


def judged(results: Sequence[Result]) -> Outcome:
    """Count what real processes did."""
    targets = kind().classes[CLASS].targets(MODEL)
    limits = Limits(targets.ttft_s, targets.tpot_s)
    first = sorted(r.first_s for r in results if r.whole and r.first_s is not None)
    return Outcome(
        sum(r.is_good(limits) for r in results),
        sum(r.status == 429 for r in results),
        first[int(0.99 * len(first))] if first else 0.0,
    )


def replayed(orders: Sequence[Order]) -> Outcome:
    """Say what the replay makes of a schedule."""
    arrivals = [Arrival(o.at_s, o.prompt_tokens, o.output_tokens, class_name=CLASS) for o in orders]
    found = replay(arrivals, kind(), StaticPeak(REPLICAS), units=REPLICAS)
    tally = found.classes[CLASS]
    return Outcome(tally.kept, tally.refused, tally.ttft_p99_s)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--loads", type=float, nargs="+", default=[0.8, 1.0, 1.3])
    parser.add_argument("--seconds", type=float, default=40.0)
    parser.add_argument("--warm-up", type=float, default=6.0)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    each = kind()
    capacity = (
        REPLICAS * carried(each.law, each.mix, each.classes[CLASS].targets(MODEL)).calls_per_s
    )
    print("load  calls   good live/replay          TTFT p99 live/replay (ms)   refused live/replay")
    for load in options.loads:
        orders = schedule(load * capacity, options.seconds + options.warm_up, LOAD, options.seed)
        results = uvloop.run(live(orders))
        counted = [r for r in results if r.order.at_s >= options.warm_up]
        real = judged(counted)
        virtual = replayed([r.order for r in counted])
        late = sorted(r.late_s for r in results)[int(0.99 * len(results))]
        print(
            f"{load:4.2f} {len(counted):6d}  {real.good:5d} {virtual.good:5d}"
            f"  ({_off(virtual.good, real.good)})     {1e3 * real.ttft_p99_s:6.0f}"
            f" {1e3 * virtual.ttft_p99_s:6.0f}  ({_off(virtual.ttft_p99_s, real.ttft_p99_s)})"
            f"     {real.refused:5d} {virtual.refused:5d}   client late p99 {1e3 * late:.1f} ms",
            flush=True,
        )
    return 0


def _off(virtual: float, real: float) -> str:
    return f"{100.0 * (virtual / real - 1.0):+.1f} %" if real else "-"


if __name__ == "__main__":
    sys.exit(main())
