"""Replicas as routing sees them, for its tests."""

from collections.abc import Callable, Mapping
from typing import Any

from backends.capacity import Mix, StepLaw
from backends.fleet import Replica
from backends.slo import Targets
from gateway.estimates import Size
from gateway.law import Speed
from gateway.queue.ledger import Candidate, Cost
from gateway.routing.prospects import Prospect
from gateway.routing.router import Question

LAW = StepLaw(10e-3, 50e-6, 20e-9)
NOW = 1.7e9
INTERACTIVE = Targets(ttft_s=0.45, tpot_s=0.04)


def prospect(
    name: str, *, law: StepLaw = LAW, rtt_s: float = 0.0, slots: int = 200, **more: Any
) -> Prospect:
    """A replica with a law, so far away, with so many slots."""
    return Prospect(
        replica=Replica(name, "m", f"http://{name}"),
        speed=Speed(law, law.c_tok_s, 4096, 1000.0, 0.02, NOW),
        rtt_s=rtt_s,
        call_s=law.c_tok_s * 400,
        bounds={"c": Candidate(name, slots, 1_000_000, 5_000)},
        load_at=NOW,
        **more,
    )


def holding(**calls: int) -> Callable[[str], Cost]:
    """A ledger that has given out so many slots, of 300 tokens each."""
    return lambda name: Cost(calls.get(name, 0), 300 * calls.get(name, 0), 0)


def question(
    held: Callable[[str], Cost] | None = None,
    *,
    prompt: float = 200,
    targets: Targets = INTERACTIVE,
    within_s: float = 0.4,
    cached: Mapping[str, float] | None = None,
    **more: Any,
) -> Question:
    """A call with a prompt of so many tokens."""
    return Question(
        class_name="c",
        targets=targets,
        size=Size(prompt, 100),
        mix=Mix(200, 100),
        within_s=within_s,
        held=held or holding(),
        cached=cached or {},
        now=NOW,
        **more,
    )
