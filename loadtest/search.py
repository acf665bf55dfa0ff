"""Which is the highest rate that is VALID, found with few queries?

Bracket by growing steps, halve the bracket (on a logarithmic scale) with probes that end as soon as
they are clear, confirm the best rate by a whole run.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from math import ceil, log, sqrt
from pathlib import Path

from loadtest import certify, plan, report, results
from loadtest.judgement import Verdict
from loadtest.launch import Generators
from loadtest.manifest import Admin
from loadtest.options import RunOptions
from loadtest.progress import Terminal
from loadtest.records import Log
from loadtest.sequential import Caution, Outlook, outlook
from loadtest.verdict import judge

_GROWTH = 1.5
_MOST_STEPS = 24
_MOST_CONFIRMATIONS = 6


@dataclass(frozen=True, slots=True)
class Probe:
    """One rate that was tried: was it valid, and what did it cost?"""

    qps: float
    valid: bool
    queries: int
    whole: bool
    note: str = ""


@dataclass(frozen=True, slots=True)
class Found:
    """The outcome: `qps` is the highest confirmed rate, None if none was."""

    qps: float | None
    probes: tuple[Probe, ...]
    sweep_queries: int

    @property
    def queries(self) -> int:
        """Give what the search cost."""
        return sum(probe.queries for probe in self.probes)


class Searching(RuntimeError):
    """The search cannot go on."""


TryRate = Callable[[float, bool], Probe]


def find(try_rate: TryRate, start_qps: float, *, precision: float, whole_s: float) -> Found:
    """Find the highest valid rate.

    `try_rate(qps, whole)` runs a probe, or a whole run. `precision`: relative width at which the
    halving stops; a rate that is not confirmed is lowered by it, then by twice as much, and so on.
    `whole_s`: length of a whole run, for the cost of a sweep in steps of the
    precision over the same bracket.
    """
    probes: list[Probe] = []

    def attempt(qps: float, whole: bool) -> bool:
        probes.append(try_rate(qps, whole))
        return probes[-1].valid

    low, high = _bracket(lambda qps: attempt(qps, False), start_qps)
    outer = (low, high)
    while high / low > 1 + precision:
        middle = sqrt(low * high)
        low, high = (middle, high) if attempt(middle, False) else (low, middle)
    confirmed = None
    for lower in range(1, _MOST_CONFIRMATIONS + 1):
        if attempt(low, True):
            confirmed = low
            break
        low /= (1 + precision) ** lower
    return Found(confirmed, tuple(probes), sweep_cost(*outer, precision, whole_s))


def sweep_cost(low: float, high: float, precision: float, whole_s: float) -> int:
    """Count the queries of whole runs at every rate from low to high, one precision apart."""
    steps = ceil(log(high / low) / log(1 + precision))
    return round(sum(low * (1 + precision) ** i * whole_s for i in range(steps + 1)))


def _bracket(valid: Callable[[float], bool], start_qps: float) -> tuple[float, float]:
    """Find a valid rate and an invalid one above it, a step apart."""
    qps = start_qps
    if valid(qps):
        for _ in range(_MOST_STEPS):
            if not valid(qps * _GROWTH):
                return qps, qps * _GROWTH
            qps *= _GROWTH
        raise Searching(f"still VALID at {qps:g} queries/s: start higher")
    for _ in range(_MOST_STEPS):
        if valid(qps / _GROWTH):
            return qps / _GROWTH, qps
        qps /= _GROWTH
    raise Searching(f"still INVALID at {qps:g} queries/s")


@dataclass(frozen=True, slots=True)
class Bench:
    """What every run of a search shares."""

    base_url: str
    out: Path
    generators: Generators
    terminal: Terminal
    asked: certify.Interrupted
    admin: Admin


def command(run: RunOptions, bench: Bench, precision: float) -> int:
    """Search on a live endpoint, report the confirming run, print the cost. Give the exit code."""
    last: list[results.Outcomes] = []
    whole_s = plan.make(run).rules.min_duration_ns / 1e9
    numbers = itertools.count(1)
    used = 0

    def try_rate(qps: float, whole: bool) -> Probe:
        nonlocal used
        place = bench.out if whole else bench.out / f"probe-{next(numbers):02d}"
        if whole:
            made = plan.make(replace(run, target_qps=qps))
            found = _whole(made, bench)
            last[:] = [found]
            valid = found.judgement.verdict is Verdict.VALID
            probe = Probe(qps, valid, found.judgement.queries, True)
        else:
            made = plan.make(replace(run, target_qps=qps, duration=whole_s, skip=used))
            probe = _probe(_partial(made, whole_s), bench, place, qps)
            used += probe.queries
        if bench.asked:
            raise KeyboardInterrupt
        state = "VALID" if probe.valid else "INVALID"
        kind = "whole run" if whole else f"probe, {probe.note}"
        bench.terminal.tell(f"{qps:10.4g} queries/s  {state:8} {probe.queries} queries ({kind})")
        return probe

    try:
        found = find(try_rate, run.target_qps, precision=precision, whole_s=whole_s)
    except KeyboardInterrupt:
        print("INCOMPLETE  the search was interrupted")
        return 2
    except Searching as error:
        raise certify.CannotJudge(str(error)) from None
    if last:
        report.write(bench.out, last[0])
    return _tell(found, bench.out, precision)


def _tell(found: Found, out: Path, precision: float) -> int:
    page = asdict(found) | {"queries": found.queries}
    (out / "search.json").write_text(json.dumps(page, indent=1) + "\n")
    if found.qps is None:
        print("INVALID  no rate was confirmed")
        return 1
    share = found.queries / found.sweep_queries
    print(f"VALID up to {found.qps:.4g} queries/s")
    print(
        f"  {found.queries} queries in {len(found.probes)} runs; a sweep in steps of "
        f"{precision:.0%} over the same range would take {found.sweep_queries} ({share:.0%})"
    )
    print(f"  {out / results.REPORT}")
    return 0


def _whole(made: plan.Plan, bench: Bench) -> results.Outcomes:
    """Run at full length, unless it is clear before that it cannot be VALID."""

    def clear(records: Log, elapsed_s: float) -> bool:
        return outlook(records, made.rules, elapsed_s, Caution(failures=1)) is Outlook.INVALID

    return certify.certify(
        made,
        bench.base_url,
        bench.out,
        bench.generators,
        bench.terminal,
        bench.asked,
        admin=bench.admin,
        clear=clear,
    )


def _partial(made: plan.Plan, whole_s: float) -> plan.Plan:
    """Shorten a plan to the minimum duration: a probe needs no whole passes over the dataset."""
    arrivals = made.schedule.arrivals_ns
    count = int((arrivals <= whole_s * 1e9).sum())
    schedule = replace(
        made.schedule, arrivals_ns=arrivals[:count], samples=made.schedule.samples[:count]
    )
    return replace(made, schedule=schedule)


def _probe(made: plan.Plan, bench: Bench, place: Path, qps: float) -> Probe:
    """Run until the outlook is clear, at most the whole length."""
    results.clear(place)
    seen = Outlook.OPEN
    caution = Caution(settle_s=min(30.0, made.rules.min_duration_ns / 4e9))

    def clear(records: Log, elapsed_s: float) -> bool:
        nonlocal seen
        seen = outlook(records, made.rules, elapsed_s, caution)
        return seen is not Outlook.OPEN

    records, status = certify.run(
        made,
        bench.base_url,
        place,
        bench.generators,
        bench.terminal,
        bench.asked,
        clear=clear,
    )
    if seen is not Outlook.OPEN:
        return Probe(qps, seen is Outlook.VALID, len(records), False, "clear")
    judgement = judge(
        records, made.rules, offered=len(made.schedule), interrupted=status["state"] != "finished"
    )
    return Probe(qps, judgement.verdict is Verdict.VALID, len(records), False, "at full length")
