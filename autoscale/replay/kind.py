"""What are the replicas of a replay, and how much does a class let each of them take?"""

from collections.abc import Mapping
from dataclasses import dataclass

from autoscale.capacity import class_share
from backends.capacity import Mix, StepLaw, permitted_step_s
from backends.hardware import Profile
from backends.simulated.sequences import EngineLimits
from backends.slo import Class, Targets
from gateway.law import Speed
from gateway.queue.ledger import Candidate
from gateway.routing.prospects import busy_s, prefill_bound, slots

MODEL = "replayed"


@dataclass(frozen=True, slots=True)
class Kind:
    """What the replicas are, and what is promised on them."""

    profile: Profile
    classes: Mapping[str, Class]
    law: StepLaw
    mix: Mix

    def share(self, class_name: str) -> float:
        """Work per second within a class's limits."""
        return class_share(self.law, self.classes[class_name], self.profile.model)

    def targets(self, klass: Class) -> Targets:
        """What a class promises on them."""
        return klass.targets(self.profile.model)

    def named(self, class_name: str, otherwise: str) -> Class:
        """The class of that name; `otherwise` names the one that stands in."""
        return self.classes.get(class_name) or self.classes[otherwise]

    def speed(self) -> Speed:
        """How fast one is, as the router is told."""
        p, law = self.profile, self.law
        most = float(p.max_running)
        return Speed(law, law.prefill_token_s, p.chunk_tokens, most, 0.0, 1.0)

    def limits(self) -> EngineLimits:
        """What one holds at once."""
        p = self.profile
        return EngineLimits(p.max_running, p.chunk_tokens, p.kv_tokens, prefix_cache=False)

    def call_s(self, class_name: str) -> float:
        """How long a call of the class keeps one busy, in seconds."""
        return busy_s(self.law, self.mix, self.targets(self.classes[class_name]).tpot_s)

    def bounds(self) -> dict[str, Candidate]:
        """What each class lets one take, by class; the candidates name no replica yet."""
        return {name: self._bound(klass) for name, klass in self.classes.items()}

    def _bound(self, klass: Class) -> Candidate:
        targets, speed = self.targets(klass), self.speed()
        return Candidate(
            "",
            slots(speed, self.mix, targets, most_running=self.profile.max_running),
            int(0.95 * self.profile.kv_tokens),
            prefill_bound(speed, targets),
        )


def chunk_within(law: StepLaw, targets: Targets, *, most: int) -> int:
    """Give the prefill tokens that a step may take for its length to stay within a class's limit.

    `(permitted step - c0) / c_pre`, at most `most` and at least one: the knob that an operator sets
    for the tightest class that a replica serves. With more, a call of few tokens that meets two or
    three steps full of prompts has missed its time per token. 767 on an MI355X for Llama-2-70B's
    interactive class (40 ms); MLPerf's calibration has 512 to 768.
    """
    if targets.tpot_s is None:
        return most
    return max(1, min(most, int((permitted_step_s(targets) - law.c0_s) / law.prefill_token_s)))
