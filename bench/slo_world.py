"""Simulated engines and callers on one clock that is moved by hand, and what became of each call.

Who decides comes in a subclass: the gateway's own deciders (`slo_virtual`) or a controller that
knows everything (`slo_ideal`).
"""

import heapq
import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from random import Random
from typing import Any, cast

from backends.capacity import Mix, StepLaw
from backends.simulated import sequences as engine
from backends.simulated.core import EngineCore
from backends.slo import MLPERF_CLASSES, Class
from gateway.admission import Outlook
from gateway.call import Call, Operation, Principal, Receipt, Usage
from gateway.plans import Placed, Plan
from gateway.queue.ledger import Slot
from gateway.routing.router import Question
from gateway.wire.body import Body

MODEL = "llama2-70b"
EPOCH = 1.7e9


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


@dataclass(frozen=True, slots=True)
class Sent:
    """What a caller sends; `blocks` are the keys of its prompt in an engine's cache.

    `again`: it was refused before, and comes back as told.
    """

    prompt: int
    output: int
    class_name: str
    body: Body
    tenant: str = "default"
    blocks: tuple[int, ...] = ()
    again: bool = False


@dataclass(eq=False)
class Run:
    """One call on its way."""

    call: Call
    sent: Sent
    plan: Plan | None = None
    placed: Placed | None = None
    slot: Slot | None = None
    lease: str = ""
    waits: bool = False
    waiting: ExitStack = field(default_factory=ExitStack)
    receipt: Receipt = field(init=False)
    question: Question | None = None
    outlook: Outlook | None = None

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


class Engines(ABC):
    """Engines and callers; a subclass says what a call meets (`call`) and hears how it goes."""

    def __init__(
        self,
        laws: Sequence[StepLaw],
        *,
        seed: int = 1,
        classes: Sequence[Class] = MLPERF_CLASSES,
        rtt_s: Sequence[float] = (),
        block_tokens: int = 16,
        kv_tokens: int = 1_300_000,
    ) -> None:
        self.time = Time()
        self.dice = Random(seed)
        self.classes = {c.name: c for c in classes}
        self.rtt_s = list(rtt_s) or [0.0] * len(laws)
        limits = engine.EngineLimits(2048, 4096, kv_tokens, block_tokens=block_tokens)
        self.engines = [EngineCore(law, limits) for law in laws]
        self.runs: dict[str, Run] = {}
        self.tallies: dict[str, Tally] = {}
        self.count_from = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._armed: list[float | None] = [None] * len(laws)
        self._of_sequence: dict[engine.Sequence, tuple[Run, int]] = {}

    @abstractmethod
    def call(self, sent: Sent) -> None:
        """Let one call arrive now."""

    @abstractmethod
    def _first(self, run: Run) -> None:
        """Hear that a call's first token is there."""

    @abstractmethod
    def _ended(self, run: Run, event: engine.Event) -> None:
        """Hear that an engine has answered a call whole."""

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

    def pass_by(self, per_s: float, workload: Workload, warm_s: float, seconds: float) -> None:
        """Send calls at a rate until all have ended; count those that come after the warm-up."""
        self.count_from = warm_s
        self.arrivals(per_s, workload, warm_s + seconds)
        self.until(warm_s + seconds + 60.0)

    def _arrive(self, prompt: int, output: int, class_name: str, tenant: str) -> None:
        text = b"%d" % next(self._order)
        body = text + b"x" * (130 + int(prompt * self.dice.uniform(3.6, 4.8)))
        self.call(Sent(prompt, output, class_name, Body(body), tenant))

    def _enter(self, sent: Sent) -> Run:
        t = self.time.t
        call = Call(
            id=f"c{next(self._order)}",
            key=f"k{next(self._order)}",
            principal=Principal("k", sent.tenant),
            operation=Operation.CHAT,
            path="",
            model=MODEL,
            body=sent.body,
            dialect=cast("Any", None),
            stream=True,
            class_name=sent.class_name,
            arrived=t,
            arrived_at=self.time.now(),
            deadline=t + 3600.0,
        )
        run = Run(call, sent)
        self.runs[call.key] = run
        tally = self._tally(run)
        if tally is not None:
            tally.sent += not sent.again
            tally.returned += sent.again
        return run

    def _send(self, run: Run, index: int) -> None:
        sent = run.sent
        sequence = engine.Sequence(sent.prompt, sent.output, interval=0, blocks=sent.blocks)
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

    def _count(self, run: Run, event: engine.Event) -> None:
        """Say what became of a call that was answered whole."""
        receipt = run.receipt
        cached = event.sequence.cached_tokens
        receipt.usage = Usage(run.sent.prompt, event.generated, cached)
        receipt.last_byte = self.time.t
        del self.runs[run.call.key]
        tally = self._tally(run)
        if tally is None:
            return
        tally.cached_tokens += cached
        tally.tokens += run.sent.prompt - cached + event.generated
        tally.returned_in += run.sent.again
        targets = self.classes[run.call.class_name].targets(MODEL)
        ttft_s, tpot_s = receipt.ttft_s or 0.0, receipt.tpot_s or 0.0
        tally.ttft_s.append(ttft_s)
        tally.tpot_s.append(tpot_s)
        late = targets.ttft_s is not None and ttft_s > targets.ttft_s
        slow = targets.tpot_s is not None and tpot_s > targets.tpot_s
        tally.late_first += late
        tally.left_tokens += (run.sent.prompt - cached + event.generated) if late else 0
        tally.slow += slow and not late
        if not late and not slow:
            tally.good += 1
            tally.good_tokens += event.generated

    def _refuse(self, run: Run, reason: str) -> Tally | None:
        """Say that a call was told no; gives where it is counted."""
        del self.runs[run.call.key]
        tally = self._tally(run)
        if tally is not None:
            tally.refused[reason] = tally.refused.get(reason, 0) + 1
        return tally

    def _tally(self, run: Run) -> Tally | None:
        if run.call.arrived < self.count_from:
            return None
        name = run.call.class_name
        tenant = run.call.principal.tenant
        return self.tallies.setdefault(name if tenant == "default" else f"{name}/{tenant}", Tally())

    def _every(self, pause_s: float, do: Callable[[], None]) -> None:
        def again() -> None:
            do()
            self.at(self.time.t + pause_s, again)

        self.at(self.time.t, again)
