"""The engine in virtual time: the law step by step, and the published node throughput."""

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.capacity import StepLaw
from backends.hardware import profile
from backends.simulated.core import EngineCore
from backends.simulated.sequences import EngineLimits, Event, Finish, Phase, QueueFull, Sequence

LAW = StepLaw(c0_s=10e-3, c_tok_s=30e-6, c_kv_s=25e-9)
ROOMY = EngineLimits(max_running=100, chunk_tokens=1000, kv_tokens=1_000_000)


def _run(core: EngineCore, until: float = math.inf) -> list[Event]:
    events: list[Event] = []
    while (at := core.next_at) is not None and at <= until:
        events += core.step(at)
    return events


def test_one_sequence_takes_a_prefill_step_and_a_step_per_token() -> None:
    core = EngineCore(LAW, ROOMY)
    core.admit(Sequence(100, 3), now=5.0)
    events = _run(core)
    first = 5.0 + LAW.step_s(0, 100, 0)
    second = first + LAW.step_s(1, 0, 100)
    third = second + LAW.step_s(1, 0, 101)
    assert [e.at for e in events] == pytest.approx([first, second, third])
    assert [(e.generated, e.finish) for e in events] == [(1, None), (2, None), (3, Finish.LENGTH)]
    assert (core.running, core.waiting, core.resident_tokens) == (0, 0, 0)


def test_a_long_prompt_is_prefilled_in_chunks_beside_decoding() -> None:
    core = EngineCore(LAW, ROOMY)
    core.admit(Sequence(10, 50), now=0.0)
    core.step(0.0)
    core.admit(Sequence(2500, 1), now=0.001)
    events = [e for e in _run(core) if e.sequence.prompt_tokens == 2500]
    begin = LAW.step_s(0, 10, 0)
    steps = [LAW.step_s(1, 1000, 10), LAW.step_s(1, 1000, 1011), LAW.step_s(1, 500, 2012)]
    assert [e.at for e in events] == pytest.approx([begin + sum(steps)])
    assert core.counters.prefill_uncached_tokens == 2510


def test_a_sequence_joins_no_step_that_began_before_it_came() -> None:
    core = EngineCore(LAW, ROOMY)
    early, late = Sequence(10, 20), Sequence(10, 1)
    core.admit(early, now=0.0)
    core.step(0.0)
    first_end = core.next_at
    assert first_end is not None
    core.admit(late, now=first_end + 0.001)
    core.step(first_end + 0.5)  # the caller was late: the steps did not wait for it
    assert late.started_at >= late.arrived_at
    assert late.started_at < first_end + 0.1


def test_events_come_with_the_first_token_then_by_the_interval() -> None:
    core = EngineCore(LAW, ROOMY)
    core.admit(Sequence(10, 40, interval=16), now=0.0)
    core.admit(Sequence(10, 40, interval=0), now=0.0)
    events = _run(core)
    assert [e.generated for e in events if e.sequence.interval == 16] == [1, 17, 33, 40]
    assert [e.generated for e in events if e.sequence.interval == 0] == [1, 40]


def test_the_limits_hold_first_come_first_served() -> None:
    core = EngineCore(LAW, EngineLimits(2, 1000, 1_000_000, max_queued=2))
    sequences = [Sequence(10, 5) for _ in range(4)]
    for sequence in sequences[:2]:
        core.admit(sequence, 0.0)
    core.step(0.0)
    for sequence in sequences[2:]:
        core.admit(sequence, 0.0)
    with pytest.raises(QueueFull):
        core.admit(Sequence(10, 5), 0.0)
    assert (core.running, core.waiting) == (2, 2)
    ended = [e.sequence for e in _run(core) if e.finish]
    assert ended == sequences


def test_a_sequence_waits_until_it_fits() -> None:
    core = EngineCore(LAW, EngineLimits(10, 1000, kv_tokens=130))
    one, two = Sequence(80, 20), Sequence(40, 20)
    core.admit(one, 0.0)
    core.admit(two, 0.0)
    core.step(0.0)
    assert (one.phase, two.phase) == (Phase.PREFILLING, Phase.WAITING)
    events = [e for e in _run(core) if e.finish]
    assert two.started_at == pytest.approx(events[0].at)


def test_a_prefix_seen_before_needs_no_prefill() -> None:
    core = EngineCore(LAW, ROOMY)
    blocks = (11, 12, 13)
    core.admit(Sequence(50, 2, blocks=blocks), 0.0)
    _run(core)
    again = Sequence(60, 2, blocks=(*blocks[:2], 99))
    core.admit(again, 100.0)
    events = _run(core)
    assert again.cached_tokens == 32
    assert events[0].at == pytest.approx(100.0 + LAW.step_s(0, 28, 32))
    exact = Sequence(48, 2, blocks=blocks)
    core.admit(exact, 200.0)
    _run(core)
    assert exact.cached_tokens == 47  # the last token always runs
    assert core.forget_prefixes()


@pytest.mark.parametrize("phase", [Phase.WAITING, Phase.PREFILLING, Phase.DECODING])
def test_an_abort_frees_what_the_sequence_held(phase: Phase) -> None:
    core = EngineCore(LAW, EngineLimits(1, 100, 1_000_000))
    blocker = Sequence(10, 1000)
    target = Sequence(250, 100)
    if phase is Phase.WAITING:
        core.admit(blocker, 0.0)
    core.admit(target, 0.0)
    now = 0.0
    while target.phase is not phase:
        now = core.next_at or now
        core.step(now)
    core.step(core.next_at or now)
    event = core.abort(target, now)
    assert event is not None
    assert event.finish is Finish.ABORT
    assert core.abort(target, now) is None
    if phase is Phase.WAITING:
        core.abort(blocker, now)
    assert _run(core) == []
    assert (core.running, core.waiting, core.resident_tokens, core.waiting_tokens) == (0, 0, 0, 0)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 8), st.integers(5, 300))
def test_whatever_comes_and_goes_nothing_is_left_over(
    seed: int, max_running: int, chunk: int
) -> None:
    rng = random.Random(seed)
    core = EngineCore(LAW, EngineLimits(max_running, chunk, 3000))
    live: list[Sequence] = []
    expected = 0
    now = 0.0
    for _ in range(60):
        now += rng.expovariate(20.0)
        if rng.random() < 0.6:
            sequence = Sequence(
                rng.randint(1, 400), rng.randint(1, 40), interval=rng.choice([0, 1, 7])
            )
            core.admit(sequence, now)
            live.append(sequence)
        elif live:
            core.abort(live.pop(rng.randrange(len(live))), now)
        for event in core.step(now):
            expected += event.finish is not None
    events = _run(core)
    assert all(e.at >= e.sequence.arrived_at for e in events)
    assert core.counters.ended == expected + sum(e.finish is not None for e in events)
    assert (core.running, core.waiting, core.resident_tokens, core.waiting_tokens) == (0, 0, 0, 0)


@pytest.mark.parametrize(
    ("calls_per_s", "seconds", "limits", "tokens_per_s", "ttft_s", "tpot_s"),
    [
        pytest.param(252.0, 120.0, (512, 768), 73_706, 0.45, 0.04, id="interactive"),
        pytest.param(349.0, 600.0, (2048, 4096), 100_282, 2.0, 0.2, id="server"),
    ],
)
def test_a_node_reproduces_the_published_throughput(
    calls_per_s: float,
    seconds: float,
    limits: tuple[int, int],
    tokens_per_s: float,
    ttft_s: float,
    tpot_s: float,
) -> None:
    """Eight replicas, least outstanding work, Poisson arrivals and the calibration's lengths."""
    node = _Node(EngineLimits(limits[0], limits[1], 1_300_000))
    rng = random.Random(1)
    now = 0.0
    while now < seconds:
        now += rng.expovariate(calls_per_s)
        node.send(Sequence(_length(rng, 294), _length(rng, 300), interval=0), now)
    done, ttft, tpot = node.results(since=seconds / 2, until=seconds)
    assert done == pytest.approx(tokens_per_s, rel=0.02)
    assert tpot < tpot_s
    assert ttft < ttft_s


class _Node:
    """Eight engines and the work that each still has."""

    def __init__(self, limits: EngineLimits) -> None:
        law = profile("llama2-70b", "mi355x").law
        self._engines = [EngineCore(law, limits) for _ in range(8)]
        self._left = [0] * 8
        self._ended: list[Event] = []

    def send(self, sequence: Sequence, now: float) -> None:
        for i, core in enumerate(self._engines):
            self._ended += (ended := [e for e in _run(core, now) if e.finish])
            self._left[i] -= sum(_work(e.sequence) for e in ended)
        chosen = self._left.index(min(self._left))
        self._left[chosen] += _work(sequence)
        self._engines[chosen].admit(sequence, now)
        self._engines[chosen].step(now)

    def results(self, *, since: float, until: float) -> tuple[float, float, float]:
        """Tokens per second, p99 TTFT and p99 TPOT of the calls that ended in a window."""
        ended = [e for e in self._ended if since < e.at <= until]
        ttft = sorted(e.sequence.first_token_at - e.sequence.arrived_at for e in ended)
        tpot = sorted(
            (e.at - e.sequence.first_token_at) / (e.generated - 1) for e in ended if e.generated > 1
        )
        rank = 0.99
        return (
            sum(e.generated for e in ended) / (until - since),
            ttft[int(rank * len(ttft))],
            tpot[int(rank * len(tpot))],
        )


def _work(sequence: Sequence) -> int:
    return sequence.prompt_tokens + sequence.output_tokens


def _length(rng: random.Random, mean: float, sigma: float = 0.68) -> int:
    drawn = rng.lognormvariate(math.log(mean) - sigma**2 / 2, sigma)
    return max(1, min(1024, round(drawn)))
