"""Does goodput stay past the knee? The gateway's own deciders before simulated engines, in virtual
time: no noise of a machine, minutes of traffic in seconds.

    python -m bench.slo_virtual --replicas 8 --load 1 1.3 2 5

The steering, admission and the in-memory ledger are the ones that serve; only the sockets are
missing. Load reports come once a second, a second old at most, as in life.
"""

import argparse
import heapq
import itertools
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from random import Random
from typing import Any, cast

import orjson

from backends.capacity import Mix, StepLaw, carried
from backends.clock import Clock
from backends.fleet import Fleet, Health, HealthState, Load, Pool, Replica, Standing
from backends.hardware import profile
from backends.registry import Registry
from backends.sglang import parse_loads
from backends.simulated import core as engine
from backends.simulated.reports import loads
from backends.slo import MLPERF_CLASSES, Class
from gateway.admission import MOST_RETRY_S, Outlook, Reject, decide, retry_after
from gateway.call import Call, Operation, Principal, Receipt, Usage
from gateway.plans import Placed, Plan
from gateway.queue.book import Book
from gateway.queue.drain import Drain
from gateway.queue.ledger import Ask, Backlog, Candidate, Cost, Slot
from gateway.routing.router import Question
from gateway.steering import Steering
from gateway.wire.body import Body

MODEL = "llama2-70b"
EPOCH = 1.7e9
REPORT_S = 1.0
LEAST_RETRY_S = 1.0


@dataclass(frozen=True)
class Workload:
    """What callers send: mean tokens, spread, shares of classes."""

    prompt: tuple[int, int] = (48, 208)
    output: tuple[int, int] = (32, 96)
    classes: Mapping[str, float] = field(default_factory=lambda: {"interactive": 1.0})
    tenants: Mapping[str, float] = field(default_factory=lambda: {"default": 1.0})

    @property
    def mix(self) -> Mix:
        """The mean call."""
        a, b = self.output
        mean = (a + b) / 2
        square = (a * a + a * b + b * b) / 3
        return Mix(sum(self.prompt) / 2, mean, square / mean**2)


class Time:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.t = 0.0

    def now(self) -> float:
        """Unix seconds."""
        return EPOCH + self.t

    def monotonic(self) -> float:
        """Seconds since the beginning."""
        return self.t

    async def sleep(self, delay_s: float) -> None:
        """Nobody sleeps here."""
        raise NotImplementedError


class VirtualLedger:
    """The book of one model behind the ledger's reading methods; grants go to `on_grant`."""

    def __init__(self, time: Time, on_grant: Callable[[Slot], None]) -> None:
        self._time = time
        self._on_grant = on_grant
        self.book = Book(MODEL)
        self._drain = Drain()
        self._drain.note(0, 0, 0.0)
        self._lease = itertools.count()

    def ask(self, ask: Ask) -> str:
        """Let a call wait; it may be granted before this returns."""
        lease = str(next(self._lease))
        self._grant(self.book.acquire(lease, ask, self._time.t))
        return lease

    def leave(self, lease: str) -> None:
        """End a wait."""
        self._grant(self.book.leave(lease, self._time.t))

    async def acquire(self, ask: Ask, *, within_s: float) -> Slot:
        """Not here: see `ask`."""
        raise NotImplementedError

    def first_token(self, slot: Slot) -> None:
        """Free the prompt's tokens."""
        self._grant(self.book.first_token(slot.lease_id, self._time.t))

    def release(self, slot: Slot) -> None:
        """Give a slot back."""
        granted = self.book.release(slot.lease_id, self._time.t)
        self._drain.note(self.book.released, self.book.released_work_us, self._time.t)
        self._grant(granted)

    def offer(
        self, model: str, candidates: tuple[Candidate, ...], *, rank: int | None = None
    ) -> None:
        """Take in bounds."""
        self._grant(self.book.offer(candidates, rank, self._time.t))

    def running(self, replica_id: str) -> int:
        """Sequences on a replica."""
        return self.book.outstanding(replica_id).sequences

    def outstanding(self, replica_id: str) -> Cost:
        """What the calls on a replica hold."""
        return self.book.outstanding(replica_id)

    def waiting(self, model: str) -> int:
        """How many wait."""
        return self.book.waiting

    def backlog(self, model: str) -> Mapping[int, Backlog]:
        """Who waits."""
        return self.book.backlog()

    def drain_per_s(self, model: str) -> float:
        """Calls ended per second."""
        return self._drain.per_s(self._time.t)[0]

    def work_per_s(self, model: str) -> float:
        """Work ended per second."""
        return self._drain.per_s(self._time.t)[1]

    def _grant(self, slots: Sequence[Slot]) -> None:
        for slot in slots:
            self._on_grant(slot)


@dataclass
class Registered:
    """Stands for the registry: a fleet that is swapped whole."""

    fleet: Fleet = field(default_factory=Fleet)


@dataclass(eq=False)
class Run:
    """One call on its way."""

    call: Call
    prompt: int
    output: int
    plan: Plan | None = None
    placed: Placed | None = None
    slot: Slot | None = None
    lease: str = ""
    waits: bool = False
    waiting: ExitStack = field(default_factory=ExitStack)
    receipt: Receipt = field(init=False)
    again: bool = False
    question: Question | None = None
    outlook: Outlook | None = None
    blocks: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        self.receipt = Receipt(self.call)


@dataclass
class Tally:
    """What became of the calls of one class."""

    sent: int = 0
    good: int = 0
    good_tokens: int = 0
    late_first: int = 0
    slow: int = 0
    refused: dict[str, int] = field(default_factory=dict)
    ttft_s: list[float] = field(default_factory=list)
    tpot_s: list[float] = field(default_factory=list)
    returned: int = 0
    returned_in: int = 0
    final: int = 0
    tokens: int = 0
    left_tokens: int = 0
    cached_tokens: int = 0


class World:
    """Engines, the gateway's deciders, and callers, on one clock."""

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
        self.time = Time()
        self._return_once = return_once
        self.dice = Random(seed)
        self.classes = {c.name: c for c in classes}
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        limits = engine.EngineLimits(2048, 4096, kv_tokens, block_tokens=block_tokens)
        self.engines = [engine.EngineCore(law, limits) for law in laws]
        self._armed: list[float | None] = [None] * len(laws)
        self.rtt_s = list(rtt_s) or [0.0] * len(laws)
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
        self.runs: dict[str, Run] = {}
        self._of_sequence: dict[engine.Sequence, tuple[Run, int]] = {}
        self.plain = policy != "promised"
        self.steering = Steering(
            registry=cast("Registry", self.registry),
            ledger=self.ledger,
            clock=cast("Clock", self.time),
            classes=self.classes,
            policy_name=policy,
            rtt_s={r.site: s for r, s in zip(self.replicas, self.rtt_s, strict=True)},
            dice=Random(seed),
        )
        self.tallies: dict[str, Tally] = {}
        self.count_from = 0.0
        self._publish()
        self._every(REPORT_S, self._report)
        self._every(0.5, self.steering.look)

    def at(self, t: float, do: Callable[[], None]) -> None:
        """Do something at an instant."""
        heapq.heappush(self._events, (t, next(self._order), do))

    def until(self, end: float) -> None:
        """Let time pass."""
        while self._events and self._events[0][0] <= end:
            self.time.t, _, do = heapq.heappop(self._events)
            do()
        self.time.t = end

    def arrivals(self, per_s: float, workload: Workload, end: float) -> None:
        """Let callers come, open loop, until `end`."""
        names, shares = zip(*workload.classes.items(), strict=True)
        t = self.time.t
        while (t := t + self.dice.expovariate(per_s)) < end:
            prompt = self.dice.randint(*workload.prompt)
            output = self.dice.randint(*workload.output)
            name = self.dice.choices(names, shares)[0]
            who = self.dice.choices([*workload.tenants], [*workload.tenants.values()])[0]
            self.at(t, partial(self._arrive, prompt, output, name, who))

    def _arrive(self, prompt: int, output: int, class_name: str, tenant: str) -> None:
        text = b"%d" % next(self._order)
        body = text + b"x" * (130 + int(prompt * self.dice.uniform(3.6, 4.8)))
        self._call(prompt, output, class_name, tenant, Body(body), again=False)

    def call(
        self, prompt: int, output: int, class_name: str, body: Body, *, blocks: tuple[int, ...] = ()
    ) -> None:
        """Let one call arrive now; `blocks` are the keys of its prompt in an engine's cache."""
        self._call(prompt, output, class_name, "default", body, again=False, blocks=blocks)

    def _call(
        self,
        prompt: int,
        output: int,
        class_name: str,
        tenant: str,
        body: Body,
        *,
        again: bool,
        blocks: tuple[int, ...] = (),
    ) -> None:
        run = self._enter(prompt, output, class_name, tenant, body, again=again, blocks=blocks)
        steering = self.steering
        run.plan = plan = steering.plan(run.call)
        choice, question = steering.choose(plan, frozenset())
        outlook = steering.outlook(plan, choice, question)
        decision = decide(outlook, least_retry_s=LEAST_RETRY_S)
        if isinstance(decision, Reject):
            self._tell(run, decision.reason.value, decision.retry_after_s, outlook)
            return
        run.outlook = outlook
        run.question = question
        run.waits = True
        run.waiting.enter_context(steering.waiting(plan))
        run.lease = self.ledger.ask(steering.ask(plan, choice, frozenset()))
        if run.waits:
            self.at(self.time.t + decision.at_most_s, lambda: self._out_of_patience(run))

    def _enter(
        self,
        prompt: int,
        output: int,
        class_name: str,
        tenant: str,
        body: Body,
        *,
        again: bool = False,
        blocks: tuple[int, ...] = (),
    ) -> Run:
        t = self.time.t
        call = Call(
            id=f"c{next(self._order)}",
            key=f"k{next(self._order)}",
            principal=Principal("k", tenant),
            operation=Operation.CHAT,
            path="",
            model=MODEL,
            body=body,
            dialect=cast("Any", None),
            stream=True,
            class_name=class_name,
            arrived=t,
            arrived_at=self.time.now(),
            deadline=t + 3600.0,
        )
        run = Run(call, prompt, output, again=again, blocks=blocks)
        self.runs[call.key] = run
        tally = self._tally(run)
        if tally is not None:
            tally.sent += not again
            tally.returned += again
        return run

    def _out_of_patience(self, run: Run) -> None:
        if run.waits:
            run.waits = False
            run.waiting.close()
            self.ledger.leave(run.lease)
            self._tell(run, "deadline_passed")

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
        if not placed.is_in_time and outlook.reachable and outlook.sure:
            self.ledger.release(slot)
            self._tell(run, "slot_too_late")
            return
        self._send(run, int(slot.replica_id[1:]))

    def _send(self, run: Run, index: int) -> None:
        sequence = engine.Sequence(run.prompt, run.output, interval=0, blocks=run.blocks)
        self._of_sequence[sequence] = (run, index)
        self.at(self.time.t + self.rtt_s[index] / 2, lambda: self._submit(index, sequence))

    def _submit(self, index: int, sequence: engine.Sequence) -> None:
        self.engines[index].admit(sequence, self.time.t)
        self._step(index)

    def _step(self, index: int) -> None:
        core = self.engines[index]
        for event in core.step(self.time.t):
            run, _ = self._of_sequence[event.sequence]
            late = self.rtt_s[index] / 2
            if event.finish is not None:
                del self._of_sequence[event.sequence]
                self.at(event.at + late, lambda r=run, e=event: self._ended(r, e))  # type: ignore[misc]
            else:
                self.at(event.at + late, lambda r=run: self._first(r))  # type: ignore[misc]
        at = core.next_at
        if at is not None and self._armed[index] != at:
            self._armed[index] = at
            self.at(at, lambda: self._tick(index, at))

    def _tick(self, index: int, at: float) -> None:
        if self._armed[index] == at:
            self._armed[index] = None
            self._step(index)

    def _first(self, run: Run) -> None:
        if run.placed is None:
            return
        run.receipt.first_byte = self.time.t
        self.steering.lessons.first_token(run.placed)

    def _ended(self, run: Run, event: engine.Event) -> None:
        if run.placed is None or run.slot is None:
            return
        receipt = run.receipt
        cached = event.sequence.cached_tokens
        receipt.usage = Usage(run.prompt, event.generated, cached)
        receipt.last_byte = self.time.t
        receipt.replica_id = run.slot.replica_id
        self.steering.lessons.ended(run.placed, receipt)
        self.ledger.release(run.slot)
        self._count(run, event)

    def _count(self, run: Run, event: engine.Event) -> None:
        """Say what became of a call that was answered whole."""
        receipt = run.receipt
        receipt.last_byte = self.time.t
        del self.runs[run.call.key]
        tally = self._tally(run)
        if tally is None:
            return
        cached = event.sequence.cached_tokens
        tally.cached_tokens += cached
        tally.tokens += run.prompt - cached + event.generated
        tally.returned_in += run.again
        targets = self.classes[run.call.class_name].targets(MODEL)
        ttft_s, tpot_s = receipt.ttft_s or 0.0, receipt.tpot_s or 0.0
        tally.ttft_s.append(ttft_s)
        tally.tpot_s.append(tpot_s)
        late = targets.ttft_s is not None and ttft_s > targets.ttft_s
        slow = targets.tpot_s is not None and tpot_s > targets.tpot_s
        tally.late_first += late
        tally.left_tokens += (run.prompt - cached + event.generated) if late else 0
        tally.slow += slow and not late
        if not late and not slow:
            tally.good += 1
            tally.good_tokens += event.generated

    def _tell(
        self,
        run: Run,
        reason: str,
        retry_after_s: float | None = None,
        outlook: Outlook | None = None,
    ) -> None:
        del self.runs[run.call.key]
        tally = self._tally(run)
        if tally is not None:
            tally.refused[reason] = tally.refused.get(reason, 0) + 1
        if not self._return_once or run.again or run.plan is None:
            return
        known = outlook or run.outlook
        if known is None:
            return
        wait_s = retry_after_s or retry_after(known, least_retry_s=LEAST_RETRY_S)
        told_s = self.steering.return_after(run.plan, known, wait_s)
        if told_s > MOST_RETRY_S:
            if tally is not None:
                tally.final += 1
            return
        call = run.call
        self.at(
            self.time.t + math.ceil(told_s),
            lambda: self._call(
                run.prompt,
                run.output,
                call.class_name,
                call.principal.tenant,
                call.body,
                again=True,
            ),
        )

    def _tally(self, run: Run) -> Tally | None:
        if run.call.arrived < self.count_from:
            return None
        name = run.call.class_name
        tenant = run.call.principal.tenant
        return self.tallies.setdefault(name if tenant == "default" else f"{name}/{tenant}", Tally())

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

    def _every(self, pause_s: float, do: Callable[[], None]) -> None:
        def again() -> None:
            do()
            self.at(self.time.t + pause_s, again)

        self.at(self.time.t, again)


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
) -> dict[str, Tally]:
    """Send calls at a rate; give what became of those that came after the warm-up."""
    world = World(
        laws, policy=policy, seed=seed, rtt_s=rtt_s, return_once=return_once, hardware=hardware
    )
    world.count_from = warm_s
    world.arrivals(per_s, workload, warm_s + seconds)
    world.until(warm_s + seconds + 60.0)
    return world.tallies


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
                return_once=options.return_once,
            )  # fmt: skip
            for name, tally in sorted(tallies.items()):
                share = workload.classes[name]
                print(line(f"{policy[:8]} {name[:8]}", load * full * share,
                           options.seconds, tally, full * share))  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
