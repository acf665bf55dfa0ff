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
from gateway.estimates import Size
from gateway.feedback import Margin
from gateway.lateness import served_last
from gateway.pools import LAW_SHARE
from gateway.queue.book import Book
from gateway.queue.drain import Drain
from gateway.queue.ledger import Slot
from gateway.routing.prospects import Prospect, Roster
from gateway.routing.router import Choice, Question, candidates

MOST_WAITING = 4096


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
        choice = candidates(self._roster, self._question(live, within_s, now), self._dice)
        if choice.best is None:
            self._tell(live)
            return
        live.predicted_s = choice.best.prediction.ttft_s
        work = work_s(self._kind.law, live.mix)
        decision = decide(self._outlook(live, choice, work, within_s, now), least_retry_s=1.0)
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
        mix = live.mix
        return Question(
            class_name=live.klass.name,
            targets=live.targets,
            size=Size(mix.input_tokens, mix.output_tokens),
            mix=self._kind.mix,
            within_s=within_s,
            held=self._book.outstanding,
            now=now,
        )

    def _outlook(
        self, live: Live, choice: Choice, work: float, within_s: float, now: float
    ) -> Outlook:
        best, klass = choice.best, live.klass
        assert best is not None  # noqa: S101 - a call that no replica can take is refused before
        backlog = self._book.backlog()
        by_law = LAW_SHARE * self.does_per_s[klass.name] * self._worth
        return Outlook(
            slack_s=within_s - live.predicted_s,
            has_room=best.has_room,
            ahead_s=sum(b.work_s for rank, b in backlog.items() if rank <= klass.rank),
            own_s=work,
            does_per_s=max(self._drain.per_s(now)[1], by_law),
            waiting=self._book.waiting,
            most_waiting=MOST_WAITING,
            patience_s=klass.patience_s,
            idle=best.prediction.running == 0 and not self._book.waiting,
            late=live.is_late,
        )

    def _granted(self, granted: Sequence[Slot], now: float) -> None:
        for slot in granted:
            live = self._waiting.pop(slot.lease_id, None)
            sequence = None if live is None else sequence_of(live)
            if sequence is None or not self._fleet.admit(slot.replica_id, sequence, now):
                self._granted(self._book.release(slot.lease_id, now), now)
                continue
            assert live is not None  # noqa: S101 - its sequence runs
            live.granted_at = now
            live.rtt_s = self._fleet.site_of(slot.replica_id).rtt_s
            self._running[sequence] = live

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
