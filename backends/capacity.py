"""How long does a step take, and what does one replica carry within a class's targets?

Every figure of capacity in the system comes from one law, the time of one step of an engine that
batches continuously and lets chunks of prefill share the step with decoding:

    T = c0 + c_tok * decode tokens + c_pre * prefill tokens + c_kv * resident KV tokens   (seconds)

Prefill is bound by arithmetic and decoding by memory, so a prompt's token may cost several times
what one more decoding call does: 2 to 3 times on an H100 with an 8 B model (docs/capacity.md).
Where the two were not told apart, c_pre is c_tok.

The law and its use are as in the project's capacity model: calibrated against AMD's MLPerf
Inference v6.0 results (`backends.hardware` holds the constants and says where each is from).
"""

import math
from dataclasses import dataclass

from backends.slo import Targets

# A mean step this far below the limit of TPOT keeps the 99th percentile under it (calibrated, see
# above).
STEP_MARGIN = 0.85


@dataclass(frozen=True, slots=True)
class StepLaw:
    """Constants of the step time: seconds, seconds per token in the step, seconds per resident
    KV token; `c_pre_s` is the seconds per prefill token, None where it was not told apart.
    """

    c0_s: float
    c_tok_s: float
    c_kv_s: float
    c_pre_s: float | None = None

    @property
    def prefill_token_s(self) -> float:
        """Give the seconds per prompt token that no cache holds."""
        return self.c_tok_s if self.c_pre_s is None else self.c_pre_s

    def slowed(self, by: float) -> "StepLaw":
        """Give the law of token work that takes `by` times as long; c0 stays."""
        prefill = None if self.c_pre_s is None else self.c_pre_s * by
        return StepLaw(self.c0_s, self.c_tok_s * by, self.c_kv_s * by, prefill)

    def step_s(self, decode_tokens: float, prefill_tokens: float, kv_tokens: float) -> float:
        """Give the time of one step in seconds: `c0 + c_tok*decode + c_pre*prefill + c_kv*kv`."""
        work_s = self.c_tok_s * decode_tokens + self.prefill_token_s * prefill_tokens
        return self.c0_s + work_s + self.c_kv_s * kv_tokens

    def scaled(self, throughput_scale: float) -> "StepLaw":
        """Give the law of a replica that does `throughput_scale` times the token work per second.

        c_tok and c_kv are divided by it, c0 stays: a batch that is larger by the scale decodes with
        the same latency, while the prefill of one prompt takes 1/scale as long.
        """
        return self.slowed(1.0 / throughput_scale)


@dataclass(frozen=True, slots=True)
class Mix:
    """The mean call of a workload: input and output tokens; `spread` is E[out^2]/E[out]^2 (1:
    all alike).
    """

    input_tokens: float
    output_tokens: float
    spread: float = 1.0

    @property
    def resident_tokens(self) -> float:
        """Mean KV tokens of a decoding call, seen at a random step: `in + spread*out/2`."""
        return self.input_tokens + self.spread * self.output_tokens / 2


def work_s(law: StepLaw, mix: Mix) -> float:
    """Give the seconds of token work of a call: `c_pre*in + c_tok*out + c_kv*(in*out +
    spread*out^2/2)`.
    """
    tokens_s = law.prefill_token_s * mix.input_tokens + law.c_tok_s * mix.output_tokens
    return tokens_s + law.c_kv_s * mix.output_tokens * mix.resident_tokens


def share(law: StepLaw, step_s: float) -> float:
    """Give the seconds of token work that a second holds when a step may last `step_s`: `1 -
    c0/step`.

    0 where the step is not longer than c0; 1 where it is infinite.
    """
    return max(0.0, 1.0 - law.c0_s / step_s) if step_s > 0 else 0.0


def permitted_step_s(targets: Targets) -> float:
    """Give the mean step that keeps TPOT's percentile within its limit: `0.85 * limit`; infinite
    without one.
    """
    return math.inf if targets.tpot_s is None else STEP_MARGIN * targets.tpot_s


@dataclass(frozen=True, slots=True)
class Carried:
    """What one replica carries within a class's targets; all zero where the targets cannot be held
    at all.

    `running` is the mean number of decoding calls at that rate (Little's law); `bound` names what
    limits it: "tpot", "batch" (the engine's limit of running calls), "kv" (its KV tokens) or
    "unreachable".
    """

    calls_per_s: float
    tokens_per_s: float
    running: float
    step_s: float
    bound: str


def carried(
    law: StepLaw, mix: Mix, targets: Targets, *, max_running: int = 0, kv_tokens: int = 0
) -> Carried:
    """Say what a replica carries: `share(step) / work`, at the longest step that its limits allow.

    The step is the shortest of: 0.85 of the TPOT limit; the step of a full batch; the step of a
    full KV cache. A limit of 0 is none. TTFT adds no bound of its own in the steady state: it is a
    matter of queueing (see `ttft_s`); but a limit that not even an idle replica meets is reported
    as unreachable.
    """
    if targets.ttft_s is not None and ttft_s(law, mix.input_tokens) > targets.ttft_s:
        return Carried(0.0, 0.0, 0.0, 0.0, "unreachable")
    bounds = {"tpot": permitted_step_s(targets)}
    if max_running:
        bounds["batch"] = steady_step_s(law, mix, max_running)
    if kv_tokens:
        bounds["kv"] = steady_step_s(law, mix, kv_tokens / mix.resident_tokens)
    bound, step_s = min(bounds.items(), key=lambda item: item[1])
    done = share(law, step_s)
    if done <= 0.0:
        return Carried(0.0, 0.0, 0.0, step_s, "unreachable")
    calls_per_s = done / work_s(law, mix)
    running = calls_per_s * mix.output_tokens * step_s
    return Carried(calls_per_s, calls_per_s * mix.output_tokens, running, step_s, bound)


def steady_step_s(law: StepLaw, mix: Mix, running: float) -> float:
    """Give the mean step of a replica on which `running` calls of the mix decode for ever.

    Each of their tokens brings `in/out` tokens of somebody's prefill along:
    `c0 + running * (c_tok + c_pre*in/out + c_kv*(in + spread*out/2))`. This is the predicted TPOT.
    """
    per_call_s = law.c_tok_s + law.prefill_token_s * mix.input_tokens / mix.output_tokens
    return law.c0_s + running * (per_call_s + law.c_kv_s * mix.resident_tokens)


def prefill_rate_per_s(
    law: StepLaw, *, running: float, kv_tokens: float, chunk_tokens: float
) -> float:
    """Give the prefill tokens per second while `running` calls decode and every step takes a
    full chunk.
    """
    return chunk_tokens / law.step_s(running, chunk_tokens, kv_tokens)


def ttft_s(
    law: StepLaw,
    uncached_tokens: float,
    *,
    ahead_tokens: float = 0.0,
    running: float = 0.0,
    kv_tokens: float = 0.0,
    chunk_tokens: float = 4096.0,
    until_step_s: float = 0.0,
) -> float:
    """Predict the seconds from now to a new call's first token on a replica.

    `n = ceil((ahead + uncached) / chunk)` steps, each with the `running` decoders and `kv_tokens`
    resident, carry the prefill that waits `ahead` and the call's own tokens that are not in the
    prefix cache: `until_step + n*(c0 + c_tok*running + c_kv*kv) + c_pre*(ahead + uncached)`.
    `until_step_s` is what is left of the step in flight (half a step where unknown). Resident KV is
    taken as constant over those steps.
    """
    tokens = ahead_tokens + max(uncached_tokens, 1.0)
    steps = math.ceil(tokens / chunk_tokens)
    prefill_s = law.prefill_token_s * tokens
    return until_step_s + steps * law.step_s(running, 0.0, kv_tokens) + prefill_s


def tpot_s(
    law: StepLaw, *, running: float, kv_tokens: float, prefill_per_step: float = 0.0
) -> float:
    """Predict the mean seconds per output token with the given load: one step."""
    return law.step_s(running, prefill_per_step, kv_tokens)
