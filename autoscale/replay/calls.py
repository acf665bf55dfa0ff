"""What becomes of each call, by the gateway's own admission, routing and ledger?"""

import heapq
import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from random import Random

from autoscale.replay.fleet import Unit, UnitFleet
from autoscale.replay.keeping import LOOK_S, Keeping
from autoscale.replay.kind import MODEL, Kind
from autoscale.replay.live import Live, ask_of, mix_of, sequence_of
from autoscale.replay.tally import Ended
from autoscale.traces import Arrival
from backends.capacity import work_s
from backends.fleet import Replica
from backends.simulated.sequences import Event
from backends.simulated.sequences import Sequence as EngineSequence
from backends.slo import Class
from gateway.admission import Outlook, Reason, Reject, decide
from gateway.feedback import Margin
from gateway.lateness import served_last
from gateway.pools import LAW_SHARE
from gateway.queue.book import Book
from gateway.queue.drain import Drain
from gateway.queue.ledger import Cost, Slot
from gateway.routing.predictions import predict
from gateway.routing.prospects import Prospect, Roster
from gateway.routing.router import (
    Choice,
    Question,
    candidates,
    is_reachable,
    ttft_from_slot_s,
)

MOST_WAITING = 4096
_LEAST_LEFT = 0.02  # of what is done: the ledger starves no class


class Calls:
    """The calls of a replay: offered, waiting, running and ended."""

    def __init__(
        self,
        kind: Kind,
        fleet: UnitFleet,
        *,
        default_class: str,
        dice: Random,
        numbers: Iterator[int],
    ) -> None:
        self._kind = kind
        self._fleet = fleet
        self._default_class = default_class
        self._dice = dice
        self._numbers = numbers
        self._book = Book(MODEL)
        self._drain = Drain()
        self._drain.note(0, 0, 0.0)
        self._roster = Roster()
        self._worth = 0.0
        self._units: tuple[Unit, ...] = ()
        self._keeping = Keeping(kind)
        self._look_at = 0.0
        self._margins = {name: Margin() for name in kind.classes}
        self._patience: list[tuple[float, int, Live]] = []
        self._order = itertools.count()
        self._waiting: dict[str, Live] = {}
        self._running: dict[EngineSequence, Live] = {}
        self._offered = 0
        self.does_per_s = {name: kind.share(name) for name in kind.classes}
        self.ended: dict[str, list[Ended]] = {name: [] for name in kind.classes}

    @property
    def dropped(self) -> int:
        """Count those that neither ended nor were refused; while none is under way, the lost."""
        return self._offered - sum(len(each) for each in self.ended.values())

    @property
    def next_end_of_wait_at(self) -> float:
        """When the patience of a call ends next, waiting or not; infinity where there is none."""
        return self._patience[0][0] if self._patience else math.inf

    @property
    def backlog_s(self) -> float:
        """Work of the calls that wait, in seconds."""
        return sum(each.work_s for each in self._book.backlog().values())

    def oldest_wait_s(self, now: float) -> float:
        """How long the call that came first of those that wait has waited; 0 where none does."""
        return max((now - each.offered_at for each in self._waiting.values()), default=0.0)

    def class_of(self, arrival: Arrival) -> Class:
        """Give the class that holds for a call."""
        return self._kind.named(arrival.class_name, self._default_class)

    def arrive(self, arrival: Arrival, now: float) -> None:
        """Decide on a call as the gateway does."""
        self._offered += 1
        klass = self.class_of(arrival)
        targets = self._kind.targets(klass)
        due = math.inf if targets.ttft_s is None else now + targets.ttft_s
        self._keeping.ask(klass.name, work_s(self._kind.law, mix_of(arrival)), now)
        if now >= self._look_at:
            self._look_at = now + LOOK_S
            if self._keeping.look(self._units, self._book.outstanding, now):
                self._offer(now)
        self._ask(Live(arrival, klass, klass, targets, str(next(self._numbers)), due, now), now)

    def _ask(self, live: Live, now: float) -> None:
        """Decide on a call by what it is served as."""
        klass, targets = live.klass, live.targets
        margin_s = self._margins[klass.name].within(targets.ttft_s or 0.0)
        within_s = math.inf if live.is_late else live.due - now - margin_s
        question = self._question(live, within_s, now)
        choice = candidates(self._roster, question, self._dice)
        if choice.best is None:
            self._tell(live)
            return
        live.is_reachable = is_reachable(choice, question)
        work = work_s(self._kind.law, live.mix)
        decision = decide(self._outlook(live, choice, work, question), least_retry_s=1.0)
        if isinstance(decision, Reject):
            self._lower(live, decision.reason, now)
            return
        self._waiting[live.lease_id] = live
        heapq.heappush(self._patience, (now + decision.at_most_s, next(self._order), live))
        ask = ask_of(live, choice, work, now)
        self._granted(self._book.acquire(live.lease_id, ask, now), now)

    def note(self, event: Event, now: float) -> None:
        """Take in what an engine did: a first token, an end."""
        if event.finish is not None:
            self._end(self._running.pop(event.sequence), event, now)
        elif event.generated == 1:
            live = self._running[event.sequence]
            self._learn(live, now)
            self._granted(self._book.first_token(live.lease_id, now), now)

    def end_next_wait(self, now: float) -> None:
        """Refuse the call whose patience ends next, if it still waits."""
        live = heapq.heappop(self._patience)[2]
        if self._waiting.pop(live.lease_id, None) is None:
            return
        self._granted(self._book.leave(live.lease_id, now), now)
        self._lower(live, Reason.DEADLINE, now)

    def use(self, units: Iterable[Unit], now: float) -> None:
        """Tell routing and ledger which replicas may be used."""
        self._units = tuple(units)
        self._worth = sum(self._fleet.worth_of(unit) for unit in self._units)
        self._keeping.look(self._units, self._book.outstanding, now)
        self._offer(now)

    def _offer(self, now: float) -> None:
        """Tell routing and ledger how far each class may fill each replica."""
        made = []
        for unit in self._units:
            kind = unit.site.kind
            described = Replica(unit.id, MODEL, f"http://{unit.id}")
            call_s, bounds = kind.call_s(self._default_class), self._keeping.bounds(unit)
            rtt_s = unit.site.rtt_s
            made.append(Prospect(described, kind.speed(), rtt_s, call_s, bounds, load_at=now))
        self._roster = Roster.of(tuple(made))
        for name, klass in self._kind.classes.items():
            offered = tuple(each.bounds[name] for each in made)
            self._granted(self._book.offer(offered, klass.rank, now), now)
        loosest = max(self._kind.classes.values(), key=lambda c: c.rank).name
        offered = tuple(each.bounds[loosest] for each in made)
        self._granted(self._book.offer(offered, None, now), now)

    def _question(self, live: Live, within_s: float, now: float) -> Question:
        return Question(
            class_name=live.klass.name,
            targets=live.targets,
            size=live.size,
            mix=self._kind.mix,
            within_s=within_s,
            held=self._book.outstanding,
            now=now,
        )

    def _outlook(self, live: Live, choice: Choice, work: float, question: Question) -> Outlook:
        best, klass, now = choice.best, live.klass, question.now
        assert best is not None  # noqa: S101 - a call that no replica can take is refused before
        before = [each for rank, each in self._book.backlog().items() if rank <= klass.rank]
        return Outlook(
            slack_s=question.within_s - ttft_from_slot_s(choice, question),
            has_room=best.has_room,
            ahead_s=sum(each.work_s for each in before),
            own_s=work,
            does_per_s=self._does_per_s(klass, now),
            waiting=sum(each.calls for each in before),
            most_waiting=MOST_WAITING,
            patience_s=klass.patience_s,
            reachable=live.is_reachable,
            idle=best.prediction.running == 0 and not self._book.waiting,
            late=live.is_late,
        )

    def _does_per_s(self, klass: Class, now: float) -> float:
        """Give the work that is done in a second for a class and those that follow it."""
        by_law = LAW_SHARE * self.does_per_s[klass.name] * self._worth
        whole = max(self._drain.per_s(now)[1], by_law)
        return max(whole - self._keeping.asked_before(klass, now), _LEAST_LEFT * whole)

    def _granted(self, granted: Sequence[Slot], now: float) -> None:
        for slot in granted:
            live = self._waiting.pop(slot.lease_id, None)
            if live is None or not self._starts(live, slot, now):
                self._granted(self._book.release(slot.lease_id, now), now)

    def _starts(self, live: Live, slot: Slot, now: float) -> bool:
        """Start a call in its slot; False where it would be late there, or nothing is there."""
        self._predict(live, slot, now)
        margin_s = self._margins[live.klass.name].within(live.targets.ttft_s or 0.0)
        in_time = now + live.predicted_s + 0.5 * margin_s <= live.due
        if not (in_time or live.is_late) and live.is_reachable:
            self._lower(live, Reason.LATE_SLOT, now)
            return False
        sequence = sequence_of(live)
        if not self._fleet.admit(slot.replica_id, sequence, now):
            return False
        live.rtt_s = self._fleet.site_of(slot.replica_id).rtt_s
        self._running[sequence] = live
        return True

    def _predict(self, live: Live, slot: Slot, now: float) -> None:
        """Say when the first token comes from a slot, with what else is on the replica."""
        live.granted_at = now
        prospect = self._roster.by_id.get(slot.replica_id)
        if prospect is None:
            return
        held, cost = self._book.outstanding(slot.replica_id), slot.cost
        before = Cost(
            max(held.sequences - 1, 0),
            max(held.kv_tokens - cost.kv_tokens, 0),
            max(held.prefill_tokens - cost.prefill_tokens, 0),
        )
        live.predicted_s = predict(prospect, before, live.size, self._kind.mix).ttft_s

    def _learn(self, live: Live, now: float) -> None:
        """Teach the margin of its class, as the gateway does."""
        if live.targets.ttft_s is not None:
            late_s = now + live.rtt_s - live.granted_at - live.predicted_s
            self._margins[live.klass.name].observe(late_s, live.targets.ttft_s)

    def _end(self, live: Live, event: Event, now: float) -> None:
        self.ended[live.promised.name].append(
            Ended.served(
                event.sequence,
                self._kind.targets(live.promised),
                due=live.due,
                ended_at=event.at,
                offered_at=live.arrival.at_s,
                rtt_s=live.rtt_s,
                late=live.is_late,
            )
        )
        granted = self._book.release(live.lease_id, now)
        self._drain.note(self._book.released, self._book.released_work_us, now)
        self._granted(granted, now)

    def _lower(self, live: Live, reason: Reason, now: float) -> None:
        """Serve a call late that its class cannot keep, where its class says so; else tell it."""
        served_as = None
        if not live.is_late and reason is not Reason.QUEUE_FULL:
            served_as = served_last(
                live.klass,
                live.targets,
                self._kind.classes.values(),
                waited_s=now - live.offered_at,
            )
        if served_as is None:
            self._tell(live)
            return
        self._ask(live.late(served_as, str(next(self._numbers))), now)

    def _tell(self, live: Live) -> None:
        self.ended[live.promised.name].append(
            Ended(kept=False, refused=True, offered_at=live.arrival.at_s)
        )
