"""What does a batch cost those who wait, without a machine's noise? As `bench.batch`, virtually.

    python -m bench.batch_virtual          # a minute or two, in virtual time

The gateway's own deciders and the in-memory ledger before simulated engines, as in
`bench.slo_virtual`. Rows of a batch are a closed loop of so many at once; they are unary, so that
their prompts are booked for as long as `gateway.lessons` says, and those who call know what rows
hold as of the last second. `onset` lets calls come only when rows have filled all replicas deep.
"""

import argparse
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import cast

from backends.capacity import carried
from backends.hardware import profile
from backends.simulated import sequences as engine
from backends.slo import MLPERF_CLASSES
from bench.slo_virtual import World
from bench.slo_world import MODEL, Run, Tally, Workload
from gateway.lessons import UNARY_LATE
from gateway.queue.ledger import Cost, Slot
from gateway.worker_yield import PATIENT_S, Credit, beyond

ROW, WAITS = "offline", "interactive"
WORKLOAD = Workload(prompt=(40, 190), output=(32, 96))
WARM_S = 30.0  # calls alone, so that the law is learnt
BEFORE_S = 70.0  # rows run that long before calls come on at once
AGAIN_S = 0.05
TOLD_S = 0.005  # from a call that finds no slot to the worker


class BatchWorld(World):
    """A world in which rows of a batch run beside those who call."""

    def __init__(self, options: argparse.Namespace, seed: int) -> None:
        law = profile(MODEL, "mi355x").law.scaled(options.scale)
        super().__init__([law] * options.replicas, seed=seed)
        self.rows_done = self.row_tokens = self.repeated_tokens = self.yielded = 0
        self.credit = Credit()
        self._yields = not options.no_yields
        self._seen: dict[str, Cost] = {}
        self._is_row = self._looks = False
        self._truth = self.ledger.book.outstanding
        self.ledger.outstanding = self._outstanding  # type: ignore[method-assign]
        self._every(1.0, lambda: self._touch(*(r.id for r in self.replicas)))
        self._every(1.0, self._hear)

    def rows(self, in_flight: int) -> None:
        """Let so many rows run at once from now on."""
        for _ in range(in_flight):
            self._next_row()

    def _next_row(self) -> None:
        prompt, output = self.dice.randint(*WORKLOAD.prompt), self.dice.randint(*WORKLOAD.output)
        self._arrive(prompt, output, ROW, "batch")

    def _outstanding(self, replica_id: str) -> Cost:
        """Give what a replica holds: as the worker knows it, or as the gateway does."""
        if self._is_row:
            return self._truth(replica_id)
        return self._seen.get(replica_id) or self._truth(replica_id)

    def _touch(self, *replica_ids: str) -> None:
        for each in replica_ids:
            self._seen[each] = self._truth(each)

    def _arrive(self, prompt: int, output: int, class_name: str, tenant: str) -> None:
        self._is_row = class_name == ROW
        before = set(self.runs)
        super()._arrive(prompt, output, class_name, tenant)
        self._is_row = False
        if class_name != ROW and any(self.runs[k].waits for k in self.runs.keys() - before):
            self.at(self.time.t + TOLD_S, self._hear)

    def _granted(self, slot: Slot) -> None:
        super()._granted(slot)
        if self.runs[slot.call_id].call.class_name != ROW:
            self._touch(slot.replica_id)

    def _send(self, run: Run, index: int) -> None:
        super()._send(run, index)
        if run.call.class_name == ROW and run.slot and run.placed and run.placed.prediction:
            slot, booked_s = run.slot, UNARY_LATE * run.placed.prediction.ttft_s
            self.at(self.time.t + booked_s, lambda: self.ledger.first_token(slot))

    def _first(self, run: Run) -> None:
        if run.call.class_name != ROW:
            super()._first(run)
            if run.slot is not None:
                self._touch(run.slot.replica_id)

    def _ended(self, run: Run, event: engine.Event) -> None:
        super()._ended(run, event)
        if run.call.class_name == ROW:
            self.credit.earn()
            if self.time.t >= self.count_from:
                self.rows_done += 1
                self.row_tokens += run.sent.prompt + run.sent.output
            self.at(self.time.t, self._next_row)
        elif run.slot is not None:
            self._touch(run.slot.replica_id)

    def _tell(self, run: Run, reason: str, retry_after_s: float | None = None) -> None:
        super()._tell(run, reason, retry_after_s)
        if run.call.class_name == ROW:
            self.at(self.time.t + 1.0, self._next_row)

    def _hear(self) -> None:
        """Do what a worker does when it hears of those who wait."""
        if self._yields and not self._looks and self._somebody_waits():
            self._looks = True
            self.at(self.time.t + PATIENT_S, self._make_room)

    def _somebody_waits(self) -> bool:
        return bool(self.ledger.backlog(MODEL).get(self.classes[WAITS].rank))

    def _make_room(self) -> None:
        """Do what it does a little later."""
        self._looks = False
        if not self._somebody_waits():
            return
        rows = {
            run.slot.lease_id: (sequence, run, index)
            for sequence, (run, index) in self._of_sequence.items()
            if run.call.class_name == ROW and run.slot is not None
        }
        slots = cast("Iterable[Slot]", [run.slot for _, run, _ in rows.values()])
        pools = self.steering.pools
        wanted = beyond(slots, lambda replica, rank: pools.guests(MODEL, replica, rank))
        for slot in wanted[: self.credit.spend(len(wanted))]:
            self._hang_up(*rows[slot.lease_id])

    def _hang_up(self, sequence: engine.Sequence, run: Run, index: int) -> None:
        prefilled = sequence.prompt_tokens - sequence._left
        began = sequence.phase in (engine.Phase.PREFILLING, engine.Phase.DECODING)
        event = self.engines[index].abort(sequence, self.time.t)
        if event is None or run.slot is None:
            return
        del self._of_sequence[sequence]
        del self.runs[run.call.key]
        if self.time.t >= self.count_from:
            self.yielded += 1
            self.repeated_tokens += (prefilled if began else 0) + event.generated
        self.ledger.release(run.slot)
        prompt, output = run.sent.prompt, run.sent.output
        self.at(self.time.t + AGAIN_S, lambda: self._arrive(prompt, output, ROW, "batch"))


@dataclass(frozen=True, slots=True)
class Found:
    """What calls got, and what rows did meanwhile."""

    tally: Tally
    attained: float
    rows_per_s: float
    repeated: float
    yielded: int


def measure(options: argparse.Namespace, seed: int, load: float, in_flight: int) -> Found:
    """Let calls come at `load` of what is carried, beside so many rows."""
    world = BatchWorld(options, seed)
    per_s = load * full_per_s(options)
    world.count_from = WARM_S + (BEFORE_S if options.onset else WARM_S)
    end = world.count_from + options.seconds
    world.arrivals(per_s, WORKLOAD, WARM_S if options.onset else end)
    world.until(WARM_S)
    world.rows(in_flight)
    if options.onset:
        world.until(world.count_from)
        world.arrivals(per_s, WORKLOAD, end)
    world.until(end)
    rows_per_s = world.rows_done / options.seconds
    tally = world.tallies[WAITS]
    running = sum(
        run.call.class_name == WAITS and run.call.arrived >= world.count_from
        for run in world.runs.values()
    )
    return Found(
        tally,
        tally.good / max(tally.sent - running, 1),
        rows_per_s,
        world.repeated_tokens / max(world.row_tokens, 1),
        world.yielded,
    )


def full_per_s(options: argparse.Namespace) -> float:
    """Give the calls per second that all replicas carry within the limits of those who call."""
    law = profile(MODEL, "mi355x").law.scaled(options.scale)
    targets = next(c for c in MLPERF_CLASSES if c.name == WAITS).targets(MODEL)
    return float(options.replicas * carried(law, WORKLOAD.mix, targets).calls_per_s)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a line per seed and the means; status 1 where a bar was missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--replicas", type=int, default=8)
    parser.add_argument("--scale", type=float, default=0.03, help="of an MI355X's throughput")
    parser.add_argument("--load", type=float, default=0.5, help="interactive, of what is carried")
    parser.add_argument("--in-flight", type=int, default=256, help="rows at once")
    parser.add_argument("--seconds", type=float, default=200.0, help="counted")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--onset", action="store_true", help="calls begin when rows run deep")
    parser.add_argument("--no-yields", action="store_true")
    options = parser.parse_args(arguments)
    idle_per_s = (1.0 - options.load) * full_per_s(options)
    lost = share = 0.0
    for seed in options.seeds:
        alone = measure(options, seed, options.load, 0)
        found = measure(options, seed, options.load, options.in_flight)
        lost += 100 * (alone.attained - found.attained) / len(options.seeds)
        share += found.rows_per_s / idle_per_s / len(options.seeds)
        print(
            f"seed {seed}: attained alone {alone.attained:.4f}, beside rows {found.attained:.4f} "
            f"(slow {found.tally.slow}, late {found.tally.late_first}, {found.tally.refused}); "
            f"{found.rows_per_s:.2f} rows/s, {found.yielded} yielded, "
            f"{found.repeated:.1%} of their tokens done twice",
            flush=True,
        )
    print(f"lost points {lost:.2f} (at most 0.5), share of idle {share:.1%} (at least 90 %)")
    return 0 if lost <= 0.5 and share >= 0.9 else 1


if __name__ == "__main__":
    sys.exit(main())
