"""When would a call's first token come from a replica, and how fast the others? Pure."""

from msgspec import Struct

from backends.capacity import Mix
from gateway.estimates import Size
from gateway.queue.ledger import Cost
from gateway.routing.prospects import Prospect


class Prediction(Struct, frozen=True, gc=False):
    """What one replica is expected to do for one call; seconds and tokens.

    `ttft_s` runs from being sent there. `cached_tokens` of the prompt need no prefill.
    """

    ttft_s: float
    tpot_s: float
    running: int
    ahead_tokens: float
    cached_tokens: float


def predict(
    prospect: Prospect, held: Cost, size: Size, mix: Mix, cached_tokens: float = 0.0
) -> Prediction:
    """Predict TTFT and TPOT of a call on a replica that holds what `held` says.

    TTFT = RTT + half a step (where something runs) + n steps of decoding + prefill seconds per
    token * (prompt tokens ahead + uncached tokens of the call); n = the chunks that those tokens
    fill. TPOT = step at the occupancy after admission, with the prefill that its steady state
    brings along: `c0 + (running+1) * (c_tok + prefill*in/out) + c_kv * resident`.

    Inputs and their age: slots of all gateways (about a second at most), the replica's own report
    where it says more (about a second), the learnt law. A replica that has never reported counts
    with its slots alone; one whose law was never learnt with its hardware's profile.
    """
    speed, law = prospect.speed, prospect.speed.law
    running = held.sequences + prospect.foreign_running
    kv_tokens = held.kv_tokens + prospect.foreign_kv_tokens
    ahead = held.prefill_tokens + prospect.foreign_prefill_tokens
    missing = size.prompt_tokens - cached_tokens
    if missing < 1.0:
        missing = 1.0
    step_s = law.c0_s + law.c_tok_s * running + law.c_kv_s * kv_tokens
    chunks = -(-(ahead + missing) // speed.chunk_tokens)
    prefill_s = speed.prefill_token_s * (ahead + missing)
    ttft_s = prospect.rtt_s + (chunks + 0.5 if running else chunks) * step_s + prefill_s
    own_kv = size.prompt_tokens + size.output_tokens / 2
    per_call_s = law.c_tok_s + speed.prefill_token_s * mix.input_tokens / mix.output_tokens
    tpot_s = law.c0_s + (running + 1) * per_call_s + law.c_kv_s * (kv_tokens + own_kv)
    return Prediction(ttft_s, tpot_s, running, ahead, cached_tokens)
