"""How long does a decision take? From a call to what is asked of the ledger, at so many replicas.

    python -m bench.decide --replicas 64

The deciders of the gateway on a fleet with load: sizing up, prefix index, candidates, outlook,
admission, and the words of the ask. CPU time of this thread, so that other work on the machine
does not count; the wall's p99 beside it. The garbage collector runs as it would.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from random import Random
from typing import Any, cast

from backends.hardware import profile
from bench.slo_virtual import World, capacity_per_s
from bench.slo_world import MODEL, Workload
from gateway.admission import Reject, decide
from gateway.call import Call, Operation, Principal
from gateway.wire.body import Body


def _call(number: int, body: bytes, now: float, arrived_at: float) -> Call:
    return Call(
        id=f"d{number}",
        key=f"d{number}",
        principal=Principal("k"),
        operation=Operation.CHAT,
        path="",
        model=MODEL,
        body=Body(body),
        dialect=cast("Any", None),
        stream=True,
        class_name="interactive",
        arrived=now,
        arrived_at=arrived_at,
        deadline=now + 3600.0,
    )


def measure(replicas: int, decisions: int, body_bytes: int) -> dict[str, float]:
    """Decide so often; give microseconds."""
    law = profile(MODEL, "mi355x").law.scaled(0.05)
    workload = Workload()
    world = World([law] * replicas)
    klass = world.classes["interactive"]
    rate = 0.85 * capacity_per_s([law] * replicas, workload.mix, klass)
    world.arrivals(rate, workload, 15.0)
    world.until(14.0)
    steering, dice = world.steering, Random(1)
    texts = [bytes(dice.choices(b"abcdefgh ", k=body_bytes)) for _ in range(50)]
    bodies = [b'{"model":"m","messages":[{"content":"' + t + b'"}]}' for t in texts]
    cpu_us: list[float] = []
    wall_us: list[float] = []
    for number in range(decisions):
        call = _call(number, bodies[number % 50], world.time.t, world.time.now())
        cpu, wall = time.thread_time_ns(), time.perf_counter_ns()
        plan = steering.plan(call)
        choice, question = steering.choose(plan, frozenset())
        outlook = steering.outlooks.of(plan, choice, question)
        if not isinstance(decide(outlook, least_retry_s=1.0), Reject):
            steering.ask(plan, choice, frozenset())
        cpu_us.append((time.thread_time_ns() - cpu) / 1e3)
        wall_us.append((time.perf_counter_ns() - wall) / 1e3)
    cpu_us.sort()
    wall_us.sort()
    looks = [_timed(steering.lookout.look) for _ in range(50)]
    return {
        "cpu_median": cpu_us[len(cpu_us) // 2],
        "cpu_p99": cpu_us[int(0.99 * len(cpu_us))],
        "wall_p99": wall_us[int(0.99 * len(wall_us))],
        "look": sorted(looks)[25],
    }


def _timed(do: Any) -> float:
    began = time.thread_time_ns()
    do()
    return (time.thread_time_ns() - began) / 1e3


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--replicas", type=int, nargs="+", default=[8, 32, 64, 128])
    parser.add_argument("--decisions", type=int, default=5_000)
    parser.add_argument("--body-bytes", type=int, default=1_200)
    options = parser.parse_args(arguments)
    for replicas in options.replicas:
        found = measure(replicas, options.decisions, options.body_bytes)
        print(
            f"{replicas:4} replicas: CPU median {found['cpu_median']:.0f} us, "
            f"p99 {found['cpu_p99']:.0f} us; wall p99 {found['wall_p99']:.0f} us; "
            f"a look at the pool {found['look']:.0f} us, twice a second"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
