"""How many nodes does a rate need within a scenario's promise, and what if one is lost?

The law gives what a GPU carries; the engine in virtual time gives the p99s at that load.
"""

import heapq
import math
from dataclasses import dataclass

import numpy as np

from backends.capacity import Carried, carried
from backends.hardware import Profile
from backends.simulated.core import EngineCore
from backends.simulated.sequences import EngineLimits
from backends.simulated.sequences import Sequence as EngineSequence
from backends.slo import MLPERF_CLASSES, Targets

SCENARIOS = ("interactive", "server", "offline")


@dataclass(frozen=True, slots=True)
class Percentiles:
    """99th percentiles in seconds at a load, from the engine in virtual time."""

    ttft_s: float
    tpot_s: float
    calls: int


@dataclass(frozen=True, slots=True)
class Sizing:
    """How many nodes, and what each would do. `spare` adds the loss of one node."""

    nodes: int
    nodes_with_spare: int
    gpus: int
    tokens_per_s_per_node: float
    load: float
    expected: Percentiles
    with_one_lost: Percentiles
    carried: Carried
    assumed: tuple[str, ...]


class Unreachable(ValueError):
    """The limits cannot be held at any number of nodes."""


def targets_of(model: str, scenario: str) -> Targets:
    """Give a scenario's limits for a model; raises KeyError."""
    by_name = {each.name: each for each in MLPERF_CLASSES}
    return by_name[scenario].targets(model)


def size(profile: Profile, scenario: str, tokens_per_s: float, *, seed: int = 1) -> Sizing:
    """Give the fewest nodes for output tokens per second; raises Unreachable."""
    targets = targets_of(profile.model, scenario)
    one = carried(
        profile.law,
        profile.mix,
        targets,
        max_running=profile.max_running,
        kv_tokens=profile.kv_tokens,
    )
    if one.tokens_per_s <= 0.0:
        raise Unreachable(
            f"{profile.model} on {profile.hardware.name} cannot hold {scenario} at any number of"
            " nodes: a step of one call is longer than the limit allows"
        )
    gpus = profile.hardware.gpus_per_node
    per_node = one.tokens_per_s * gpus
    nodes = max(1, math.ceil(tokens_per_s / per_node - 1e-9))
    calls_per_s = tokens_per_s / profile.mix.output_tokens
    return Sizing(
        nodes,
        nodes + 1,
        nodes * gpus,
        per_node,
        tokens_per_s / (nodes * per_node),
        percentiles(profile, calls_per_s / (nodes * gpus), seed=seed),
        percentiles(profile, calls_per_s / (max(nodes - 1, 1) * gpus), seed=seed),
        one,
        profile.assumed,
    )


def percentiles(
    profile: Profile, calls_per_s: float, *, seconds: float = 60.0, gpus: int = 4, seed: int = 1
) -> Percentiles:
    """Run some GPUs in virtual time with Poisson arrivals, least work first; what arrives in the
    first third of the time is left out.
    """
    rng = np.random.default_rng(seed)
    output, sigma = profile.mix.output_tokens, profile.output_sigma
    lasts = seconds + 0.3 * output
    count = int(calls_per_s * gpus * lasts)
    at = np.cumsum(rng.exponential(1.0 / (calls_per_s * gpus), size=count))
    drawn = rng.lognormal(math.log(output) - sigma**2 / 2, sigma, count)
    tokens = np.clip(drawn, 1, max(output * 3.5, 16))
    node = _Node(profile, gpus)
    for arrives, out in zip(at.tolist(), tokens.tolist(), strict=True):
        node.arrive(arrives, max(1, round(out)))
    rows = [row for row in node.rows if row[0] > lasts / 3]
    if not rows:
        return Percentiles(math.inf, math.inf, 0)
    found = np.quantile(np.array(rows)[:, 1:], 0.99, axis=0)
    return Percentiles(float(found[0]), float(found[1]), len(rows))


class _Node:
    """Some GPUs behind a router that knows the tokens outstanding on each."""

    def __init__(self, profile: Profile, gpus: int) -> None:
        limits = EngineLimits(
            profile.max_running, profile.chunk_tokens, profile.kv_tokens, prefix_cache=False
        )
        self._cores = [EngineCore(profile.law, limits) for _ in range(gpus)]
        self._outstanding = [0] * gpus
        self._due = [math.inf] * gpus
        self._events: list[tuple[float, int]] = []
        self._read = max(1, round(profile.mix.input_tokens))
        self.rows: list[tuple[float, float, float]] = []  # arrived, TTFT, TPOT

    def arrive(self, at: float, output: int) -> None:
        """Let steps end until then, and send a call to the GPU with the least to do."""
        while self._events and self._events[0][0] <= at:
            now, index = heapq.heappop(self._events)
            if now == self._due[index]:
                self._due[index] = math.inf
                self._step(index, now)
        index = min(range(len(self._cores)), key=self._outstanding.__getitem__)
        self._outstanding[index] += self._read + output
        self._cores[index].admit(EngineSequence(self._read, output, interval=0), at)
        self._schedule(index)

    def _step(self, index: int, now: float) -> None:
        for event in self._cores[index].step(now):
            if event.finish is None:
                continue
            s = event.sequence
            self._outstanding[index] -= s.prompt_tokens + s.output_tokens
            if s.output_tokens > 1:
                tpot = (event.at - s.first_token_at) / (s.output_tokens - 1)
                self.rows.append((s.arrived_at, s.first_token_at - s.arrived_at, tpot))
        self._schedule(index)

    def _schedule(self, index: int) -> None:
        due = self._cores[index].next_at
        if due is not None and due < self._due[index]:
            self._due[index] = due
            heapq.heappush(self._events, (due, index))


def told(sizing: Sizing, profile: Profile, scenario: str, tokens_per_s: float) -> str:
    """Write a sizing for a person."""
    targets = targets_of(profile.model, scenario)
    limits = [
        f"{name} {limit * 1e3:.0f} ms"
        for name, limit in (("TTFT", targets.ttft_s), ("TPOT", targets.tpot_s))
        if limit is not None
    ]
    expected, lost = sizing.expected, sizing.with_one_lost
    lines = [
        f"{profile.model} on {profile.hardware.title}, {scenario}"
        f" ({', '.join(limits) or 'no latency limit'} at p99), {tokens_per_s:,.0f} tok/s:",
        f"  nodes             {sizing.nodes} ({sizing.gpus} GPUs), at {sizing.load:.0%} of what"
        f" they carry ({sizing.tokens_per_s_per_node:,.0f} tok/s each)",
        f"  expected p99      {_shown(expected)}",
        f"  one node lost     {_shown(lost)};"
        f" {sizing.nodes_with_spare} nodes keep the promise through it",
        f"  bound by          {sizing.carried.bound}",
    ]
    if sizing.assumed:
        lines.append(f"  rests on assumptions for: {', '.join(sizing.assumed)}")
    return "\n".join(lines)


def _shown(found: Percentiles) -> str:
    return f"TTFT {found.ttft_s * 1e3:.0f} ms, TPOT {found.tpot_s * 1e3:.1f} ms"
