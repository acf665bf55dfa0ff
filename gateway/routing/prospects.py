"""What does a decision know of one replica, and how far may it be filled for a class? Pure."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import inf

from backends.capacity import STEP_MARGIN, Mix, StepLaw, work_s
from backends.fleet import Replica
from backends.slo import Targets
from gateway.law import Speed
from gateway.queue.ledger import Candidate, Cost

DEEP_STEP = 19.0  # of token work for each second of a step's fixed part
KV_FILL = 0.95  # of the KV cache, above which engines begin to retract
# Of the TTFT limit that prompts in flight on one replica may take together; more of it where
# prompts are found in caches, since what waits for a slot gets any replica, not the one that holds
# its beginning.
TTFT_FOR_AHEAD, MOST_FOR_AHEAD = 0.42, 0.7


@dataclass(frozen=True, slots=True)
class Prospect:
    """One routable replica at one instant.

    `bounds` are by class name; `foreign_*` is what runs there beyond the ledger's slots (callers
    that go round us); `call_s` is the seconds that a mean call's answer keeps it busy at the pace
    that its tightest class allows, the unit of work ahead; `load_at` (Unix seconds) is when its
    load was last seen, None where never.
    """

    replica: Replica
    speed: Speed
    rtt_s: float
    call_s: float
    bounds: Mapping[str, Candidate] = field(default_factory=dict)
    foreign_running: int = 0
    foreign_kv_tokens: int = 0
    foreign_prefill_tokens: int = 0
    load_at: float | None = None


@dataclass(frozen=True, slots=True)
class Roster:
    """All prospects of a pool, and what is worst among them, so that most calls need no look at
    each: seconds per prompt token, least step with one call, round trip, oldest load.
    """

    prospects: tuple[Prospect, ...] = ()
    prefill_token_s: float = 0.0
    least_step_s: float = 0.0
    rtt_s: float = 0.0
    nearest_s: float = 0.0
    load_at: float = inf
    by_id: Mapping[str, Prospect] = field(default_factory=dict)

    @classmethod
    def of(cls, prospects: tuple[Prospect, ...]) -> "Roster":
        """Look at each once."""
        if not prospects:
            return cls()
        return cls(
            prospects,
            max(p.speed.prefill_token_s for p in prospects),
            max(p.speed.law.c0_s + p.speed.law.c_tok_s for p in prospects),
            max(p.rtt_s for p in prospects),
            min(p.rtt_s for p in prospects),
            min(p.load_at or 0.0 for p in prospects),
            {p.replica.id: p for p in prospects},
        )

    def load(self, class_name: str, held: Callable[[str], Cost]) -> float:
        """Give the share of a class's slots that is taken, by whomever; 1 without any slot.

        `held` is what the ledger has given out on a replica; what goes round it counts, too.
        """
        most = sum(p.bounds[class_name].sequences for p in self.prospects)
        running = sum(held(p.replica.id).sequences + p.foreign_running for p in self.prospects)
        return min(running / most, 1.0) if most else 1.0


def slots(
    speed: Speed,
    mix: Mix,
    targets: Targets,
    *,
    most_running: int,
    pace: float = 1.0,
) -> int:
    """Say how many calls of a mix may run at once within a TPOT limit; at least one.

    Formula: `(tau - c0) / (c_tok + prefill*in/out + c_kv*resident)`, with tau = 0.85 of the limit
    times `pace` (what measured TPOT has taught, 1 to begin with). Beyond `trusted_running` each
    costs `doubt` times as much, for steps were not seen so long yet. Never above `most_running`.
    Without a limit: as many as make a step twenty times as long as its fixed part, for more would
    bring 5 % at most, and a replica that is wanted for another class would come back later.
    """
    trusted = speed.trusted_running
    law = speed.law
    if targets.tpot_s is None:
        deep = DEEP_STEP * law.c0_s / per_sequence_s(speed, mix)
        return max(1, min(most_running, 4 * int(trusted), max(int(deep), int(trusted))))
    tau_s = STEP_MARGIN * targets.tpot_s * pace
    fit = (tau_s - law.c0_s) / per_sequence_s(speed, mix)
    if fit > trusted:
        fit = trusted + (fit - trusted) / speed.doubt
    return max(1, min(most_running, int(fit)))


def per_sequence_s(speed: Speed, mix: Mix) -> float:
    """Give the seconds that each running call of a mix adds to a step, its prefill included."""
    law = speed.law
    prefill_s = speed.prefill_token_s * mix.input_tokens / mix.output_tokens
    return law.c_tok_s + prefill_s + law.c_kv_s * mix.resident_tokens


def prefill_bound(speed: Speed, targets: Targets, *, reuse: float = 0.0) -> int:
    """Say how many prompt tokens may be in flight on a replica for a class.

    So many as take 0.42 of the TTFT limit at the replica's prefill rate, less a step and a half:
    what lies in an engine can no longer be re-ordered. `reuse`, the share of prompts that caches
    hold, adds to the 0.42, up to 0.7. At least one token, which lets one prompt of any length in at
    a time.
    """
    if targets.ttft_s is None:
        return speed.chunk_tokens
    share = min(TTFT_FOR_AHEAD + reuse, MOST_FOR_AHEAD)
    step_s = speed.law.c0_s if targets.tpot_s is None else STEP_MARGIN * targets.tpot_s
    time_s = share * targets.ttft_s - 1.5 * min(step_s, 0.1 * targets.ttft_s)
    return max(1, int(time_s / speed.prefill_token_s))


def busy_s(law: StepLaw, mix: Mix, tpot_s: float | None) -> float:
    """Give how long a mean call keeps a replica busy: its work over the share left for work."""
    share = 1.0 if tpot_s is None else max(0.1, 1.0 - law.c0_s / (STEP_MARGIN * tpot_s))
    return work_s(law, mix) / share


def decode_busy_s(law: StepLaw, mix: Mix, tpot_s: float | None) -> float:
    """Give how long a mean call keeps a replica busy once its prompt is done.

    Prompts in flight are counted by themselves, so the share of `busy_s` that is prefill is not.
    """
    whole = work_s(law, mix)
    return busy_s(law, mix, tpot_s) * (1.0 - law.prefill_token_s * mix.input_tokens / whole)
