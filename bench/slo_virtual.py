"""Does goodput stay past the knee? The gateway's own deciders before simulated engines, in virtual
time: no noise of a machine, minutes of traffic in seconds.

    python -m bench.slo_virtual --replicas 8 --load 1 1.3 2 5

The steering, admission and the in-memory ledger are the ones that serve; only the sockets are
missing. Load reports come once a second, a second old at most, as in life.
"""

import argparse
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import cast

import orjson

from backends.capacity import Mix, StepLaw, carried
from backends.clock import Clock
from backends.fleet import Fleet, Health, HealthState, Load, Pool, Replica, Standing
from backends.hardware import profile
from backends.registry import Registry
from backends.sglang import parse_loads
from backends.simulated import sequences as engine
from backends.simulated.reports import loads
from backends.slo import MLPERF_CLASSES, Class, WhenLate
from bench.slo_world import MODEL, Engines, Run, Sent, Tally, Workload
from bench.virtual_ledger import VirtualLedger
from gateway.admission import MOST_RETRY_S, Reason, Reject, decide, retry_after
from gateway.plans import Plan
from gateway.queue.ledger import Slot
from gateway.steering import Steering

REPORT_S = 1.0
LEAST_RETRY_S = 1.0


@dataclass
class Registered:
    """Stands for the registry: a fleet that is swapped whole."""

    fleet: Fleet = field(default_factory=Fleet)


class World(Engines):
    """Engines behind the gateway's deciders."""

    def __init__(
        self,
        laws: Sequence[StepLaw],
        *,
        policy: str = "promised",
        seed: int = 1,
        classes: Sequence[Class] = MLPERF_CLASSES,
        rtt_s: Sequence[float] = (),
        return_once: bool = False,
        hardware: Sequence[str] = (),
        block_tokens: int = 16,
        kv_tokens: int = 1_300_000,
    ) -> None:
        super().__init__(
            laws,
            seed=seed,
            classes=classes,
            rtt_s=rtt_s,
            block_tokens=block_tokens,
            kv_tokens=kv_tokens,
        )
        self._return_once = return_once
        self.replicas = [
            Replica(
                f"r{i:02}",
                MODEL,
                f"http://r{i}",
                site=f"s{self.rtt_s[i]}",
                hardware=hardware[i] if hardware else "mi355x",
            )
            for i in range(len(laws))
        ]
        self.registry = Registered()
        self.loads: list[Load | None] = [None] * len(laws)
        self.ledger = VirtualLedger(self.time, self._granted)
        self.steering = Steering(
            registry=cast("Registry", self.registry),
            ledger=self.ledger,
            clock=cast("Clock", self.time),
            classes=self.classes,
            policy_name=policy,
            rtt_s={r.site: s for r, s in zip(self.replicas, self.rtt_s, strict=True)},
            dice=Random(seed),
        )
        self._publish()
        self._every(REPORT_S, self._report)
        self._every(0.5, self.steering.lookout.look)

    def call(self, sent: Sent) -> None:
        """Let one call arrive now."""
        run = self._enter(sent)
        self._ask(run, self.steering.plan(run.call))

    def _ask(self, run: Run, plan: Plan) -> None:
        steering = self.steering
        run.plan = plan
        choice, run.question = steering.choose(plan, frozenset())
        run.outlook = outlook = steering.outlooks.of(plan, choice, run.question)
        decision = decide(outlook, least_retry_s=LEAST_RETRY_S)
        if isinstance(decision, Reject):
            self._turn_down(run, decision.reason, decision.retry_after_s)
            return
        run.waits = True
        run.waiting.enter_context(steering.outlooks.waiting(plan))
        lease = run.lease = self.ledger.ask(steering.ask(plan, choice, frozenset()))
        if run.waits:
            self.at(self.time.t + decision.at_most_s, lambda: self._out_of_patience(run, lease))

    def _out_of_patience(self, run: Run, lease: str) -> None:
        if run.waits and run.lease == lease:
            run.waits = False
            run.waiting.close()
            self.ledger.leave(lease)
            self._turn_down(run, Reason.DEADLINE)

    def _granted(self, slot: Slot) -> None:
        # Outside of the ledger's own doing, as a future's wake-up is.
        self.at(self.time.t, lambda: self._start(self.runs[slot.call_id], slot))
        run = self.runs[slot.call_id]
        run.waits = False
        run.waiting.close()

    def _start(self, run: Run, slot: Slot) -> None:
        plan, question, outlook = run.plan, run.question, run.outlook
        if plan is None or question is None or outlook is None:
            raise LookupError("a slot for a call that asked for none")
        run.slot = slot
        run.placed = placed = self.steering.placed(plan, slot, question)
        if not self.steering.takes(placed, outlook):
            self.ledger.release(slot)
            self._turn_down(run, Reason.LATE_SLOT)
            return
        self._send(run, int(slot.replica_id[1:]))

    def _first(self, run: Run) -> None:
        if run.placed is None:
            return
        run.receipt.first_byte = self.time.t
        self.steering.lessons.first_token(run.placed)

    def _ended(self, run: Run, event: engine.Event) -> None:
        if run.placed is None or run.slot is None:
            return
        run.receipt.replica_id = run.slot.replica_id
        self._count(run, event)
        self.steering.lessons.ended(run.placed, run.receipt)
        self.ledger.release(run.slot)

    def _turn_down(self, run: Run, reason: Reason, retry_after_s: float | None = None) -> None:
        """Let a call go on as its class says, or tell it now."""
        lower = None if run.plan is None else self.steering.lower(run.plan, reason)
        if lower is None:
            self._tell(run, reason.value, retry_after_s)
        else:
            self._ask(run, lower)

    def _tell(self, run: Run, reason: str, retry_after_s: float | None = None) -> None:
        tally = self._refuse(run, reason)
        known = run.outlook
        if run.plan is None or known is None:
            return
        wait_s = retry_after_s or retry_after(known, least_retry_s=LEAST_RETRY_S)
        told_s = self.steering.outlooks.return_after(run.plan, known, wait_s)
        if not self._return_once or run.sent.again:
            return
        if told_s > MOST_RETRY_S:
            if tally is not None:
                tally.final += 1
            return
        again = replace(run.sent, again=True)
        self.at(self.time.t + math.ceil(told_s), lambda: self.call(again))

    def _report(self) -> None:
        for index, core in enumerate(self.engines):
            report = loads(core, self.time.now(), frozenset({"core"}))
            self.loads[index] = parse_loads(orjson.dumps(report), self.time.now())
        self._publish()

    def _publish(self) -> None:
        ready = Health(HealthState.READY)
        standings = tuple(
            Standing(r, ready, load) for r, load in zip(self.replicas, self.loads, strict=True)
        )
        self.registry.fleet = Fleet({MODEL: Pool(MODEL, standings)}, self.time.now())


def measure(
    laws: Sequence[StepLaw],
    per_s: float,
    workload: Workload,
    *,
    policy: str = "promised",
    warm_s: float = 20.0,
    seconds: float = 60.0,
    seed: int = 1,
    rtt_s: Sequence[float] = (),
    return_once: bool = False,
    hardware: Sequence[str] = (),
    classes: Sequence[Class] = MLPERF_CLASSES,
) -> dict[str, Tally]:
    """Send calls at a rate; give what became of those that came after the warm-up."""
    world = World(
        laws,
        policy=policy,
        seed=seed,
        classes=classes,
        rtt_s=rtt_s,
        return_once=return_once,
        hardware=hardware,
    )
    world.pass_by(per_s, workload, warm_s, seconds)
    return world.tallies


def serving_late(names: Sequence[str], patience_s: float = 600.0) -> tuple[Class, ...]:
    """Give MLPerf's classes, of which those named serve who is late."""
    return tuple(
        replace(each, when_late=WhenLate.SERVE, patience_s=patience_s)
        if each.name in names
        else each
        for each in MLPERF_CLASSES
    )


def capacity_per_s(laws: Sequence[StepLaw], mix: Mix, klass: Class) -> float:
    """Give the calls per second that the law says these replicas carry within a class."""
    return sum(carried(law, mix, klass.targets(MODEL)).calls_per_s for law in laws)


def line(name: str, per_s: float, seconds: float, tally: Tally, base: float) -> str:
    """Word one result."""
    ttft, tpot = sorted(tally.ttft_s), sorted(tally.tpot_s)
    p99 = [x[int(0.99 * (len(x) - 1))] * 1e3 if x else 0.0 for x in (ttft, tpot)]
    refused = sum(tally.refused.values())
    came_in = tally.returned_in / tally.returned if tally.returned else 0.0
    back = f" came back {tally.returned}, in {came_in:.1%}, final {tally.final}"
    return (
        f"{name:18} {per_s:7.1f}/s good {tally.good / seconds:7.2f}/s "
        f"({tally.good / max(tally.sent, 1):6.1%}) of base {tally.good / seconds / base:5.3f} "
        f"tokens {tally.good_tokens / seconds:7.0f}/s late {tally.late_first} slow {tally.slow} "
        f"refused {refused} p99 {p99[0]:.0f}/{p99[1]:.1f} ms {tally.refused}"
        + (back if tally.returned else "")
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--replicas", type=int, default=8)
    parser.add_argument("--slow", type=int, default=0, help="how many of them have a third's speed")
    parser.add_argument("--scale", type=float, default=0.05)
    parser.add_argument("--load", type=float, nargs="+", default=[0.9, 1.0, 1.3, 2.0, 5.0])
    parser.add_argument("--policy", nargs="+", default=["promised", "least_outstanding"])
    parser.add_argument("--classes", default="interactive=1")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--return-once", action="store_true", help="the refused come back once")
    parser.add_argument("--serve-late", nargs="+", default=[], help="classes that serve the late")
    options = parser.parse_args(arguments)
    law = profile(MODEL, "mi355x").law
    fast = options.replicas - options.slow
    laws = [law.scaled(options.scale)] * fast + [law.scaled(0.32 * options.scale)] * options.slow
    shares = dict(each.split("=") for each in options.classes.split(","))
    workload = Workload(classes={k: float(v) for k, v in shares.items()})
    classes = {c.name: c for c in MLPERF_CLASSES}
    full = capacity_per_s(laws, workload.mix, classes[next(iter(shares))])
    print(f"by the law: {full:.1f} calls/s", file=sys.stderr)
    for policy in options.policy:
        for load in options.load:
            tallies = measure(
                laws, load * full, workload,
                policy=policy, seconds=options.seconds, seed=options.seed,
                return_once=options.return_once, classes=serving_late(options.serve_late),
            )  # fmt: skip
            for name, tally in sorted(tallies.items()):
                share = workload.classes[name]
                print(line(f"{policy[:8]} {name[:8]}", load * full * share,
                           options.seconds, tally, full * share))  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
