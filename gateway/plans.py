"""What is a call once it is sized up, and once it has a place?"""

from collections.abc import Mapping

from msgspec import Struct, field

from backends.slo import Class, Targets, WhenLate
from gateway.call import Call, Operation
from gateway.estimates import Size
from gateway.queue.ledger import Slot
from gateway.routing.predictions import Prediction

GENERATES = frozenset({Operation.CHAT, Operation.TEXT_COMPLETION})


class Plan(Struct, frozen=True):
    """One call sized up; instants are monotonic, `first_token_by` infinite without a TTFT.

    `cached` is the share of its prompt that each replica probably holds; the work is what is left
    where most is held. `returns`: it was refused before and has come back when it was told to.
    `missed`: the plan that could not be kept, where the call is served late.
    """

    call: Call
    klass: Class
    targets: Targets
    size: Size
    work_s: float
    first_token_by: float
    keys: tuple[int, ...] = ()
    cached: Mapping[str, float] = field(default_factory=dict)
    returns: bool = False
    missed: "Plan | None" = None

    @property
    def promised(self) -> "Plan":
        """The plan whose promise counts: of a call that is served late the one that it misses."""
        return self.missed or self


class Placed(Struct, frozen=True):
    """A call's place: its slot, and what the replica was predicted to do from then on.

    `is_sure`: the law behind the prediction was learnt, not assumed.
    """

    plan: Plan
    slot: Slot
    prediction: Prediction | None
    granted: float
    margin_s: float = 0.0
    is_sure: bool = False

    @property
    def is_in_time(self) -> bool:
        """Whether the first token can still come in time, as predicted."""
        if self.prediction is None:
            return True
        ready = self.granted + self.prediction.ttft_s + 0.5 * self.margin_s
        return ready <= self.plan.first_token_by

    @property
    def is_late(self) -> bool:
        """Whether it is served although its first token will probably be late."""
        if self.plan.missed is not None:
            return True
        serves = self.plan.klass.when_late is WhenLate.SERVE
        return serves and self.is_sure and not self.is_in_time

    @property
    def late_s(self) -> float:
        """By how much its first token will probably miss its promise."""
        ttft_s = 0.0 if self.prediction is None else self.prediction.ttft_s
        return max(0.0, self.granted + ttft_s - self.plan.promised.first_token_by)
