"""What is one call of a replay, and what is asked for it?"""

import math
from dataclasses import dataclass, replace

from autoscale.replay.kind import MODEL
from autoscale.traces import Arrival
from backends.capacity import Mix
from backends.simulated.sequences import Finish
from backends.simulated.sequences import Sequence as EngineSequence
from backends.slo import Class, Targets
from gateway.estimates import Size
from gateway.queue.ledger import Ask, Cost
from gateway.routing.router import Choice


@dataclass(slots=True, eq=False)
class Live:
    """A call that is offered, with what is known of it.

    It is held against `promised` and `due`; `klass` and `targets` are those that it is served as,
    which are others where it `is_late`: it will miss its promise, and is served last of all.
    """

    arrival: Arrival
    promised: Class
    klass: Class
    targets: Targets
    lease_id: str
    due: float
    offered_at: float
    is_late: bool = False
    is_reachable: bool = True
    predicted_s: float = 0.0
    granted_at: float = 0.0
    rtt_s: float = 0.0

    @property
    def mix(self) -> Mix:
        """Its tokens."""
        return mix_of(self.arrival)

    @property
    def size(self) -> Size:
        """Its tokens as routing takes them."""
        return Size(self.mix.input_tokens, self.mix.output_tokens)

    def late(self, served_as: Class, lease_id: str) -> "Live":
        """Give the call as it is served although its first token will be late."""
        return replace(
            self,
            klass=served_as,
            targets=Targets(tpot_s=self.targets.tpot_s),
            lease_id=lease_id,
            is_late=True,
        )


def mix_of(arrival: Arrival) -> Mix:
    """Give a call's tokens, at least one of each."""
    return Mix(max(arrival.input_tokens, 1), max(arrival.output_tokens, 1))


def ask_of(live: Live, choice: Choice, work: float, now: float) -> Ask:
    """Word what is asked of the ledger."""
    mix = live.mix
    return Ask(
        call_id=live.lease_id,
        model=MODEL,
        candidates=choice.candidates,
        rank=live.klass.rank,
        first_token_by=min(math.inf if live.is_late else live.due, now + live.klass.patience_s),
        tenant=live.arrival.tenant,
        work_s=work,
        cost=Cost(1, int(mix.input_tokens + mix.output_tokens / 2), int(mix.input_tokens)),
        excluded=choice.never,
    )


def sequence_of(live: Live) -> EngineSequence:
    """Give what an engine is to run."""
    return EngineSequence(
        max(live.arrival.input_tokens, 1),
        max(live.arrival.output_tokens, 1),
        interval=0,
        ends_by=Finish.STOP,
    )
