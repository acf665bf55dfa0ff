"""What does one gateway hold of one model's pool?"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from backends.capacity import Mix, StepLaw
from backends.fleet import Load
from backends.hardware import REFERENCE_HARDWARE, profile
from gateway.estimates import Size
from gateway.feedback import Margin, Outliers, Pace
from gateway.levels import Demand, Level
from gateway.routing.prefixes import PrefixIndex
from gateway.routing.prospects import Roster


@dataclass(slots=True)
class Foreign:
    """Calls on a replica that the ledger does not know, by the last report and the one before."""

    last: int = 0
    both: int = 0


@dataclass(slots=True)
class PoolState:
    """All that one gateway holds of one model."""

    model: str
    reference: StepLaw
    mix: Mix
    roster: Roster = field(default_factory=Roster)
    does_per_s: Mapping[str, float] = field(default_factory=dict)
    kept_for: Mapping[str, Level] = field(default_factory=dict)
    demand: dict[str, Demand] = field(default_factory=dict)
    others: Mapping[str, float] = field(default_factory=dict)  # what other processes are asked for
    agreed: Mapping[str, Level] | None = None  # what they have chosen, unless we choose
    paces: dict[tuple[str, str], Pace] = field(default_factory=dict)
    margins: dict[str, Margin] = field(default_factory=dict)
    outliers: Outliers = field(default_factory=Outliers)
    prefixes: PrefixIndex = field(default_factory=PrefixIndex)
    foreign: dict[str, Foreign] = field(default_factory=dict)
    loads: dict[str, Load] = field(default_factory=dict)

    def asked_per_s(self, class_name: str, now: float) -> float:
        """Give the work per second that a class asks for, here and of the other processes."""
        mine = self.demand.get(class_name)
        return (0.0 if mine is None else mine.now(now)) + self.others.get(class_name, 0.0)

    @classmethod
    def of(cls, model: str) -> "PoolState":
        """Begin with what is known of the model."""
        known = profile(model, REFERENCE_HARDWARE)
        return cls(model, known.law, known.mix)

    def work_s(self, size: Size, cached: float = 0.0) -> float:
        """Give a call's token work in the unit of this pool: seconds of its reference law.

        `cached` is the share of its prompt that needs no prefill.
        """
        law, prompt, output = self.reference, size.prompt_tokens, size.output_tokens
        resident = prompt + 0.75 * output  # with half as much again for the spread
        missing = prompt * (1.0 - cached)
        tokens_s = law.prefill_token_s * missing + law.c_tok_s * output
        return tokens_s + law.c_kv_s * output * resident

    def margin(self, class_name: str) -> Margin:
        """Give what this class's TTFT predictions must leave."""
        found = self.margins.get(class_name)
        if found is None:
            found = self.margins[class_name] = Margin()
        return found

    def pace(self, replica_id: str, class_name: str) -> Pace:
        """Give what a replica's TPOTs have taught for a class."""
        found = self.paces.get((replica_id, class_name))
        if found is None:
            found = self.paces[replica_id, class_name] = Pace()
        return found
