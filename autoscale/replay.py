"""What would have happened, call by call, with the gateway's own admission, routing and ledger?

Virtual time: arrivals, engine steps and ticks of the autoscaler are taken in order; nothing waits.
Replicas are the pure engine of `backends.simulated`, the ledger is the gateway's book of slots.
"""

import heapq
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from random import Random

import numpy as np

from autoscale.capacity import class_share
from autoscale.fluid import Scaler
from autoscale.plan import PoolView
from autoscale.traces import Arrival, Floats
from backends.capacity import Mix, StepLaw, work_s
from backends.fleet import Replica
from backends.hardware import Profile
from backends.simulated.core import EngineCore, EngineLimits, Finish
from backends.simulated.core import Sequence as EngineSequence
from backends.slo import Class
from gateway.admission import Outlook, Reject, decide
from gateway.estimates import Size
from gateway.feedback import Margin
from gateway.law import Speed
from gateway.pools import LAW_SHARE
from gateway.queue.book import Book
from gateway.queue.drain import Drain
from gateway.queue.ledger import Ask, Candidate, Cost, Slot
from gateway.routing.prospects import Prospect, Roster, busy_s, prefill_bound, slots
from gateway.routing.router import Question, candidates

MODEL = "replayed"


@dataclass(frozen=True, slots=True)
class Kind:
    """What the replicas are, and what is promised on them."""

    profile: Profile
    classes: Mapping[str, Class]
    law: StepLaw
    mix: Mix

    def share(self, class_name: str) -> float:
        """Work per second within a class's limits."""
        return class_share(self.law, self.classes[class_name], self.profile.model)


@dataclass(frozen=True, slots=True)
class Tally:
    """What came of the offered calls of a class."""

    offered: int = 0
    kept: int = 0
    refused: int = 0
    tokens: int = 0
    ttft_p99_s: float = 0.0
    tpot_p99_s: float = 0.0

    @property
    def attainment(self) -> float:
        """Kept over offered; a refusal is a miss."""
        return self.kept / self.offered if self.offered else 1.0


@dataclass(frozen=True, slots=True)
class Replayed:
    """The whole: per class, unit-seconds paid, actions, streams that a scale-in cut (never)."""

    classes: Mapping[str, Tally]
    unit_s: float
    actions: int
    dropped: int
    lasted_s: float
    work_by_tick: list[float] = field(repr=False)


@dataclass(slots=True, eq=False)
class _Live:
    """A call that is offered, with what is known of it."""

    arrival: Arrival
    klass: Class
    lease_id: str
    due: float
    predicted_s: float = 0.0
    granted_at: float = 0.0
    slot: Slot | None = None
    sequence: EngineSequence | None = None


@dataclass(slots=True, eq=False)
class _Replica:
    id: str
    core: EngineCore
    ready_at: float
    calls: dict[EngineSequence, _Live] = field(default_factory=dict)
    draining: bool = False
    scheduled: float = math.inf


def replay(
    arrivals: Sequence[Arrival],
    kind: Kind,
    scaler: Scaler,
    *,
    units: int,
    cold_start_s: float = 240.0,
    tick_s: float = 10.0,
    default_class: str = "interactive",
    seed: int = 1,
) -> Replayed:
    """Replay calls in order of arrival; a rule scales the fleet, of which `units` are there."""
    world = _World(kind, scaler, units, cold_start_s, tick_s, default_class, seed)
    start = arrivals[0].at_s if arrivals else 0.0
    next_tick = tick_s
    for arrival in arrivals:
        at = arrival.at_s - start
        while next_tick <= at:
            world.run_until(next_tick)
            world.tick(next_tick)
            next_tick += tick_s
        world.run_until(at)
        world.arrive(arrival, at)
    world.finish(next_tick)
    return world.outcome()


class _World:
    def __init__(
        self,
        kind: Kind,
        scaler: Scaler,
        units: int,
        cold_start_s: float,
        tick_s: float,
        default_class: str,
        seed: int,
    ) -> None:
        self.kind = kind
        self.scaler = scaler
        self.cold_start_s = cold_start_s
        self.tick_s = tick_s
        self.default_class = default_class
        self.dice = Random(seed)
        self.now = 0.0
        self.book = Book(MODEL)
        self.drain = Drain()
        self.drain.note(0, 0, 0.0)
        self.replicas: dict[str, _Replica] = {}
        self.starting: list[tuple[float, float, str]] = []
        self.numbers = itertools.count(1)
        self.events: list[tuple[float, int, str]] = []
        self.order = itertools.count()
        self.patience: list[tuple[float, int, _Live]] = []
        self.waiting: dict[str, _Live] = {}
        self.bounds = {name: _bound(kind, klass) for name, klass in kind.classes.items()}
        self.does_per_s = {name: kind.share(name) for name in kind.classes}
        self.roster = Roster()
        self.margins = {name: Margin() for name in kind.classes}
        self.results: dict[str, list[tuple[bool, bool, float, float, int]]] = {
            name: [] for name in kind.classes
        }
        self.work: dict[str, float] = {}
        self.tenants: dict[str, int] = {}
        self.unit_s = 0.0
        self.actions = 0
        self.dropped = 0
        self.missed_work = self.ended_work = 0.0
        self.by_tick: list[float] = []
        for _ in range(units):
            self._add(0.0)
        self._changed()

    # events

    def run_until(self, until: float) -> None:
        """Let engines step and waits end until an instant."""
        while True:
            step_at = self.events[0][0] if self.events else math.inf
            wait_at = self.patience[0][0] if self.patience else math.inf
            at = min(step_at, wait_at)
            if at > until:
                break
            self.now = at
            if wait_at <= step_at:
                self._give_up(heapq.heappop(self.patience)[2])
            else:
                self._step(heapq.heappop(self.events))
        self.now = until

    def arrive(self, arrival: Arrival, at: float) -> None:
        """Decide on a call as the gateway does."""
        klass = self.kind.classes.get(arrival.class_name) or self.kind.classes[self.default_class]
        targets = klass.targets(self.kind.profile.model)
        mix = Mix(max(arrival.input_tokens, 1), max(arrival.output_tokens, 1))
        work = work_s(self.kind.law, mix)
        tenant = arrival.tenant
        units = work / max(self.kind.share(klass.name), 1e-9) / self.tick_s
        self.work[tenant] = self.work.get(tenant, 0.0) + units
        due = math.inf if targets.ttft_s is None else at + targets.ttft_s
        margin_s = self.margins[klass.name].within(targets.ttft_s or 0.0)
        live = _Live(arrival, klass, str(next(self.numbers)), due)
        question = Question(
            class_name=klass.name,
            targets=targets,
            size=Size(mix.input_tokens, mix.output_tokens),
            mix=self.kind.mix,
            within_s=due - at - margin_s,
            held=self.book.outstanding,
            now=at,
        )
        choice = candidates(self.roster, question, self.dice)
        best = choice.best
        if best is None:
            self._refuse(live)
            return
        live.predicted_s = best.prediction.ttft_s
        backlog = self.book.backlog()
        outlook = Outlook(
            slack_s=due - at - margin_s - best.prediction.ttft_s,
            has_room=best.has_room,
            ahead_s=sum(b.work_s for rank, b in backlog.items() if rank <= klass.rank),
            own_s=work,
            does_per_s=max(
                self.drain.per_s(at)[1],
                LAW_SHARE * self.does_per_s[klass.name] * len(self.roster.prospects),
            ),
            waiting=self.book.waiting,
            most_waiting=4096,
            patience_s=klass.patience_s,
            idle=best.prediction.running == 0 and not self.book.waiting,
        )
        decision = decide(outlook, least_retry_s=1.0)
        if isinstance(decision, Reject):
            self._refuse(live)
            return
        ask = Ask(
            call_id=live.lease_id,
            model=MODEL,
            candidates=choice.candidates,
            rank=klass.rank,
            first_token_by=min(due, at + klass.patience_s),
            tenant=tenant,
            work_s=work,
            cost=Cost(1, int(mix.input_tokens + mix.output_tokens / 2), int(mix.input_tokens)),
            excluded=choice.never,
        )
        self.waiting[live.lease_id] = live
        heapq.heappush(self.patience, (at + decision.at_most_s, next(self.order), live))
        self._granted(self.book.acquire(live.lease_id, ask, at))

    def tick(self, at: float) -> None:
        """Pay, let starts become ready, and let the rule decide."""
        drained = [r for r in self.replicas.values() if r.draining and not r.calls]
        for replica in drained:
            del self.replicas[replica.id]
        self.unit_s += (len(self.replicas) + len(self.starting)) * self.tick_s
        while self.starting and self.starting[0][0] <= at:
            heapq.heappop(self.starting)
            self._add(at)
        row = self._row()
        offered = float(row.sum())
        self.by_tick.append(offered)
        ended = self.ended_work + self.missed_work
        backlog = sum(b.work_s for b in self.book.backlog().values())
        serving = [r for r in self.replicas.values() if not r.draining]
        view = PoolView(
            at=at,
            ready=len(serving),
            starting=tuple(sorted(asked for _, asked, _ in self.starting)),
            draining=len(self.replicas) - len(serving),
            offered=offered,
            missed=offered * self.missed_work / ended if ended else 0.0,
            waiting_s=backlog / max(self.does_per_s.values()),
            oldest_wait_s=0.0,
            last_call_at=at,
            cold_start_s=self.cold_start_s,
        )
        self.missed_work = self.ended_work = 0.0
        self._act(self.scaler.decide(view, row), serving, at)
        self._changed()

    def finish(self, at: float) -> None:
        """Let what is in flight end."""
        while self.events or self.patience:
            self.run_until(at)
            at += self.tick_s

    def outcome(self) -> Replayed:
        """Sum up."""
        return Replayed(
            {name: _tally(rows) for name, rows in self.results.items() if rows},
            self.unit_s,
            self.actions,
            self.dropped,
            self.now,
            self.by_tick,
        )

    # what happens to calls

    def _granted(self, granted: Sequence[Slot]) -> None:
        for slot in granted:
            live = self.waiting.pop(slot.lease_id, None)
            replica = self.replicas.get(slot.replica_id)
            if live is None or replica is None:
                self._granted(self.book.release(slot.lease_id, self.now))
                continue
            live.slot, live.granted_at = slot, self.now
            sequence = EngineSequence(
                max(live.arrival.input_tokens, 1),
                max(live.arrival.output_tokens, 1),
                interval=0,
                ends_by=Finish.STOP,
            )
            live.sequence = sequence
            replica.calls[sequence] = live
            replica.core.admit(sequence, self.now)
            self._schedule(replica)

    def _step(self, event: tuple[float, int, str]) -> None:
        replica = self.replicas.get(event[2])
        if replica is None or event[0] != replica.scheduled:
            return
        replica.scheduled = math.inf
        for each in replica.core.step(self.now):
            live = replica.calls.get(each.sequence)
            if live is None:
                continue
            if each.finish is not None:
                del replica.calls[each.sequence]
                self._ended(live, each.at)
            elif each.generated == 1 and live.slot is not None:
                self._first_token(live)
                self._granted(self.book.first_token(live.slot.lease_id, self.now))
        self._schedule(replica)

    def _first_token(self, live: _Live) -> None:
        """Teach the margin of its class, as the gateway does."""
        ttft_s = live.klass.targets(self.kind.profile.model).ttft_s
        if ttft_s is not None:
            late_s = self.now - live.granted_at - live.predicted_s
            self.margins[live.klass.name].observe(late_s, ttft_s)

    def _ended(self, live: _Live, at: float) -> None:
        assert live.sequence is not None  # noqa: S101 - it ran
        targets = live.klass.targets(self.kind.profile.model)
        output = live.sequence.output_tokens
        first = live.sequence.first_token_at
        arrived = live.due - targets.ttft_s if targets.ttft_s is not None else first
        ttft = first - arrived
        tpot = (at - first) / (output - 1) if output > 1 else 0.0
        kept = (targets.ttft_s is None or ttft <= targets.ttft_s) and (
            targets.tpot_s is None or tpot <= targets.tpot_s
        )
        self.results[live.klass.name].append((kept, False, ttft, tpot, output))
        self._note(live, kept)
        assert live.slot is not None  # noqa: S101 - it ran
        granted = self.book.release(live.slot.lease_id, self.now)
        self.drain.note(self.book.released, self.book.released_work_us, self.now)
        self._granted(granted)

    def _give_up(self, live: _Live) -> None:
        if self.waiting.pop(live.lease_id, None) is None:
            return
        self._granted(self.book.leave(live.lease_id, self.now))
        self._refuse(live)

    def _refuse(self, live: _Live) -> None:
        self.results[live.klass.name].append((False, True, 0.0, 0.0, 0))
        self._note(live, False)

    def _note(self, live: _Live, kept: bool) -> None:
        if kept:
            self.ended_work += 1.0
        else:
            self.missed_work += 1.0

    # what happens to replicas

    def _add(self, at: float) -> None:
        name = f"r{next(self.numbers)}"
        p = self.kind.profile
        limits = EngineLimits(p.max_running, p.chunk_tokens, p.kv_tokens, prefix_cache=False)
        self.replicas[name] = _Replica(name, EngineCore(self.kind.law, limits), at)

    def _act(self, target: int, serving: list[_Replica], at: float) -> None:
        change = target - len(serving) - len(self.starting)
        if not change:
            return
        self.actions += 1
        for _ in range(change):
            takes = self.cold_start_s * self.dice.lognormvariate(-0.045, 0.3)
            heapq.heappush(self.starting, (at + takes, at, ""))
        while change < 0 and self.starting:
            self.starting.remove(max(self.starting, key=lambda s: s[1]))
            heapq.heapify(self.starting)
            change += 1
        if change < 0:
            for replica in sorted(serving, key=lambda r: len(r.calls))[:-change]:
                replica.draining = True

    def _changed(self) -> None:
        """Tell routing and ledger which replicas may be used."""
        law, p = self.kind.law, self.kind.profile
        speed = Speed(law, law.c_tok_s, p.chunk_tokens, float(p.max_running), 0.0, 1.0)
        usable = [r for r in self.replicas.values() if not r.draining]
        made = []
        for replica in usable:
            bounds = {
                name: Candidate(replica.id, b.sequences, b.kv_tokens, b.prefill_tokens)
                for name, b in self.bounds.items()
            }
            targets = self.kind.classes[self.default_class].targets(p.model)
            call_s = busy_s(law, self.kind.mix, targets.tpot_s)
            described = Replica(replica.id, MODEL, f"http://{replica.id}")
            made.append(Prospect(described, speed, 0.0, call_s, bounds, load_at=self.now))
        self.roster = Roster.of(tuple(made))
        for name, klass in self.kind.classes.items():
            offered = tuple(each.bounds[name] for each in made)
            self._granted(self.book.offer(offered, klass.rank, self.now))
        loosest = max(self.kind.classes.values(), key=lambda c: c.rank).name
        offered = tuple(each.bounds[loosest] for each in made)
        self._granted(self.book.offer(offered, None, self.now))

    def _schedule(self, replica: _Replica) -> None:
        at = replica.core.next_at
        if at is not None and at < replica.scheduled:
            replica.scheduled = at
            heapq.heappush(self.events, (at, next(self.order), replica.id))

    def _row(self) -> Floats:
        for tenant in self.work:
            self.tenants.setdefault(tenant, min(len(self.tenants), 63))
        row: Floats = np.zeros(64)
        for tenant, units in self.work.items():
            row[self.tenants[tenant]] += units
        self.work.clear()
        return row


def _bound(kind: Kind, klass: Class) -> Candidate:
    law, p = kind.law, kind.profile
    targets = klass.targets(p.model)
    speed = Speed(law, law.c_tok_s, p.chunk_tokens, float(p.max_running), 0.0, 1.0)
    return Candidate(
        "",
        slots(speed, kind.mix, targets, most_running=p.max_running),
        int(0.95 * p.kv_tokens),
        prefill_bound(speed, targets),
    )


def _tally(rows: Sequence[tuple[bool, bool, float, float, int]]) -> Tally:
    served = [row for row in rows if not row[1]]

    def p99(column: int) -> float:
        return float(np.quantile([row[column] for row in served], 0.99)) if served else 0.0

    return Tally(
        offered=len(rows),
        kept=sum(row[0] for row in rows),
        refused=sum(row[1] for row in rows),
        tokens=sum(row[4] for row in rows),
        ttft_p99_s=p99(2),
        tpot_p99_s=p99(3),
    )
