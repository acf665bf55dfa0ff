"""Are the promises past the knee kept? One table in virtual time: each figure, its bar, met or not.

    python -m bench.slo_rows                               # all rows but `prefix`; minutes
    python -m bench.slo_rows --rows mix fairness --seeds 1 2 3 4 5
    python -m bench.slo_rows --rows prefix --trace mooncake_conversation.jsonl.gz

The deciders are those that serve (see `bench.slo_virtual`), the ideal controller is that of
`bench.slo_ideal`. A figure is the mean over the seeds; the worst seed stands beside it. `prefix`
takes a trace of JSON lines with `timestamp` (ms), `input_length`, `output_length` and `hash_ids`
(512 tokens each), as Mooncake publishes them (github.com/kvcache-ai/Mooncake, Apache-2.0).
"""

import argparse
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from backends.capacity import StepLaw
from backends.hardware import profile
from backends.slo import MLPERF_CLASSES
from bench.slo_ideal import ideal
from bench.slo_trace import SIZES, prefix_reuse
from bench.slo_virtual import capacity_per_s, measure
from bench.slo_world import MODEL, Tally, Workload

SCALE = 0.05
INTERACTIVE, SERVER = MLPERF_CLASSES[0], MLPERF_CLASSES[1]
LAW = profile(MODEL, "mi355x").law.scaled(SCALE)
SLOW = LAW.scaled(0.32)
MIX = MappingProxyType({"interactive": 0.4, "server": 0.4, "offline": 0.2})
GOOD = 0.99  # of the calls, up to which a rate is at or before the knee


@dataclass(frozen=True, slots=True)
class Row:
    """One figure over the seeds; `at_most`: the bar is an upper one."""

    name: str
    values: tuple[float, ...]
    bar: float
    at_most: bool = False

    @property
    def mean(self) -> float:
        """Over the seeds."""
        return sum(self.values) / len(self.values)

    @property
    def worst(self) -> float:
        """The seed that is farthest on the wrong side."""
        return max(self.values) if self.at_most else min(self.values)

    @property
    def is_met(self) -> bool:
        """Whether the mean keeps the bar."""
        return self.mean <= self.bar if self.at_most else self.mean >= self.bar

    def worded(self) -> str:
        """Word the row for people."""
        sign, met = "<=" if self.at_most else ">=", "met" if self.is_met else "NOT met"
        return (
            f"{self.name:66} {self.mean:8.4f}  worst {self.worst:8.4f}  {sign} {self.bar:<6} {met}"
        )


def attained(tally: Tally) -> float:
    """Give the share of the calls that were good; a refusal is a miss."""
    return tally.good / max(tally.sent, 1)


def highest(
    get: Callable[[float], Sequence[Tally]], *, low: float, high: float, steps: int = 6
) -> float:
    """Find the highest rate at which 99 % are good over all seeds, by halving."""
    for _ in range(steps):
        middle = (low + high) / 2
        tallies = get(middle)
        if sum(t.good for t in tallies) >= GOOD * sum(t.sent for t in tallies):
            low = middle
        else:
            high = middle
    return low


def _ours(laws: Sequence[StepLaw], per_s: float, seed: int, **more: object) -> Tally:
    return measure(laws, per_s, Workload(), seed=seed, **more)["interactive"]  # type: ignore[arg-type]


def _full(laws: Sequence[StepLaw]) -> float:
    return capacity_per_s(laws, Workload().mix, INTERACTIVE)


def knee(seeds: Sequence[int]) -> list[Row]:
    """Goodput at the knee over the ideal controller's there, and the highest rates of both."""
    rows = []
    for replicas, seconds, bar in ((8, 60.0, 0.97), (64, 15.0, 0.95)):
        laws = [LAW] * replicas
        full = _full(laws)
        some = seeds if replicas < 32 else seeds[:2]
        best = highest(
            lambda r, laws=laws, s=seconds, some=some: [  # type: ignore[misc]
                ideal(laws, r, Workload(), INTERACTIVE, seed=x, seconds=s) for x in some
            ],
            low=0.8 * full, high=1.2 * full, steps=5,
        )  # fmt: skip
        own = highest(
            lambda r, laws=laws, s=seconds, some=some: [  # type: ignore[misc]
                _ours(laws, r, x, seconds=s) for x in some
            ],
            low=0.7 * full, high=1.2 * full,
        )  # fmt: skip
        if replicas == 8:
            over = [
                _ours(laws, best, x).good / ideal(laws, best, Workload(), INTERACTIVE, seed=x).good
                for x in seeds
            ]
            rows.append(
                Row("goodput at the ideal controller's knee, over its own", tuple(over), 0.98)
            )
        rows.append(
            Row(
                f"highest rate at p99 over one ideal queue, {replicas} replicas", (own / best,), bar
            )
        )
    return rows


def overload(seeds: Sequence[int]) -> list[Row]:
    """Goodput past the knee over the knee's, and work for callers who left."""
    laws = [LAW] * 8
    at = highest(
        lambda r: [_ours(laws, r, x) for x in seeds], low=0.7 * _full(laws), high=1.1 * _full(laws)
    )
    base = {x: _ours(laws, at, x) for x in seeds}
    rows = []
    for load in (1.3, 2.0, 5.0):
        past = {x: _ours(laws, load * at, x) for x in seeds}
        calls = tuple(past[x].good / base[x].good for x in seeds)
        tokens = tuple(past[x].good_tokens / base[x].good_tokens for x in seeds)
        rows.append(Row(f"goodput at {load}x over the knee's, calls", calls, 1.0))
        rows.append(Row(f"goodput at {load}x over the knee's, tokens", tokens, 0.95))
        if load == 2.0:
            left = tuple(t.left_tokens / max(t.tokens, 1) for t in past.values())
            rows.append(
                Row(
                    "token work for callers who leave at their TTFT limit, 2x",
                    left,
                    0.01,
                    at_most=True,
                )
            )
    return rows


def mix(seeds: Sequence[int]) -> list[Row]:
    """The mix of classes past the knee.

    What remains feasible for `server` is what it gets alone on the replicas that `interactive` does
    not need: the fewest that keep 99 % of it, alone, are taken away.
    """
    laws, workload = [LAW] * 8, Workload(classes=MIX)
    rows = []
    for load in (1.3, 2.0):
        per_s = load * _full(laws)
        needed = next(
            n for n in range(1, 9)
            if n == 8 or min(attained(_ours(laws[:n], 0.4 * per_s, x)) for x in seeds[:2]) >= GOOD
        )  # fmt: skip
        only = Workload(classes={"server": 1.0})
        first, second = [], []
        for x in seeds:
            got = measure(laws, per_s, workload, seed=x)
            first.append(attained(got["interactive"]))
            left = laws[needed:]
            alone = measure(left, 0.4 * per_s, only, seed=x)["server"] if left else Tally()
            feasible = attained(alone) if left else 0.0
            second.append(attained(got["server"]) / (feasible or 1.0))
        rows.append(Row(f"40/40/20 mix at {load}x: interactive", tuple(first), 0.99))
        spare = 8 - needed
        beside = f"over what {spare} replicas do" if spare else "of all sent (no replica is spare)"
        bar = 0.95 if spare else 0.0
        rows.append(Row(f"40/40/20 mix at {load}x: server {beside}", tuple(second), bar))
    return rows


def fairness(seeds: Sequence[int]) -> list[Row]:
    """What a tenant that sends ten times its share costs three others, at 0.7 of the capacity."""
    laws = [LAW] * 8
    share = 0.7 * _full(laws) / 4

    def others(greedy: float, seed: int) -> float:
        rates = {"greedy": greedy * share, "a": share, "b": share, "c": share}
        got = measure(laws, sum(rates.values()), Workload(tenants=rates), seed=seed)
        known = [got[f"interactive/{name}"] for name in "abc"]
        return sum(t.good for t in known) / sum(t.sent for t in known)

    cost = tuple(others(1.0, x) - others(10.0, x) for x in seeds)
    return [
        Row(
            "a tenant at 10x its share costs the others, of their attainment",
            cost,
            0.02,
            at_most=True,
        )
    ]


def returns(seeds: Sequence[int]) -> list[Row]:
    """Whether a refused call gets in at the time that its Retry-After names."""
    rows = []
    for load in (1.3, 2.0):
        got = [_ours([LAW] * 8, load * _full([LAW] * 8), x, return_once=True) for x in seeds]
        rows.append(
            Row(
                f"admitted on the first retry as told, {load}x",
                tuple(t.returned_in / max(t.returned, 1) for t in got),
                0.9,
            )
        )
    return rows


def mixed(seeds: Sequence[int]) -> list[Row]:
    """Fleets of several speeds, not told: goodput at the ideal controller's knee, over its own."""
    known = {
        name: profile(MODEL, name).law.scaled(SCALE) for name in ("mi355x", "mi325x", "mi300x")
    }
    kinds = ("mi355x",) * 4 + ("mi325x",) * 4 + ("mi300x",) * 4
    each, sites = [known[k] for k in kinds], [0.0, 0.08] * 6
    fleets: list[tuple[str, list[StepLaw], list[float], tuple[str, ...]]] = [
        ("1.0 x4, 0.32 x4", [LAW] * 4 + [SLOW] * 4, [], ()),
        ("MI355X, MI325X, MI300X x4 each, two sites", each, sites, ()),
        ("the same, told", each, sites, kinds),
    ]  # fmt: skip
    rows = []
    for name, laws, rtt_s, hardware in fleets:
        full = _full(laws)
        best = highest(
            lambda r, laws=laws, rtt_s=rtt_s: [  # type: ignore[misc]
                ideal(laws, r, Workload(), INTERACTIVE, seed=x, rtt_s=rtt_s) for x in seeds[:3]
            ],
            low=0.6 * full, high=1.2 * full,
        )  # fmt: skip
        over = [
            _ours(laws, best, x, rtt_s=rtt_s, hardware=hardware).good
            / ideal(laws, best, Workload(), INTERACTIVE, seed=x, rtt_s=rtt_s).good
            for x in seeds
        ]
        rows.append(Row(f"mixed fleet ({name}) over ideal", tuple(over), 0.98))
    return rows


ROWS: Mapping[str, Callable[[Sequence[int]], list[Row]]] = MappingProxyType(
    {
        "knee": knee,
        "overload": overload,
        "mix": mix,
        "fairness": fairness,
        "returns": returns,
        "mixed": mixed,
    }
)


def prefix(trace: Path, seconds: float) -> list[Row]:
    """Prompt tokens skipped over what one unbounded cache skips, and p99 beside balancing's."""
    rows = []
    for name, kv_tokens in SIZES.items():
        own, plain = (
            prefix_reuse(trace, policy, seconds, kv_tokens=kv_tokens)
            for policy in ("promised", "least_outstanding")
        )
        of = f"prefix trace, {kv_tokens / 1e6:.1f} M tokens each ({name})"
        late = own.ttft_p99_s / plain.ttft_p99_s
        rows.append(Row(f"{of}: skipped", (own.skipped,), 0.8))
        rows.append(Row(f"{of}: p99 TTFT", (late,), 1.0, at_most=True))
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rows", nargs="+", choices=[*ROWS, "prefix"], default=[*ROWS])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    parser.add_argument("--trace", type=Path, help="for `prefix`; without it the row is left out")
    parser.add_argument("--trace-seconds", type=float, default=1200.0, help="of the trace")
    options = parser.parse_args(arguments)
    names = [*options.rows, *(["prefix"] if options.trace and "prefix" not in options.rows else [])]
    met = True
    for name in names:
        began = time.monotonic()
        if name != "prefix":
            rows = ROWS[name](options.seeds)
        elif options.trace is None:
            print("prefix: left out, give --trace FILE")
            continue
        else:
            rows = prefix(options.trace, options.trace_seconds)
        for row in rows:
            print(row.worded(), flush=True)
            met &= row.is_met
        print(f"{name}: {time.monotonic() - began:.0f} s", file=sys.stderr)
    print("all bars met" if met else "some bars are not met")
    return 0


if __name__ == "__main__":
    sys.exit(main())
