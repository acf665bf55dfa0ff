"""How many seconds does a replica cost a call? Pure; lower is better."""

from gateway.routing.predictions import Prediction
from gateway.routing.prospects import Prospect


def seconds(prospect: Prospect, prediction: Prediction, prompt_tokens: float) -> float:
    """Score a replica: `RTT + work ahead / speed + missing prompt tokens / prefill rate`.

    All terms are seconds, so they add. Work ahead / speed: half a mean call's busy time for each
    running call, and the prefill of the prompts in flight. Missing tokens: those that the prefix
    index does not expect in the replica's cache. Inputs and ages as `predict` has them. Without a
    load report the slots alone count; without a learnt law the hardware's profile. No knobs.
    """
    prefill_s = prospect.speed.prefill_token_s
    missing = prompt_tokens - prediction.cached_tokens
    if missing < 1.0:
        missing = 1.0
    ahead_s = 0.5 * prospect.call_s * prediction.running + prefill_s * prediction.ahead_tokens
    return prospect.rtt_s + ahead_s + prefill_s * missing


def fullest_first(score_s: float) -> float:
    """Turn a score round, so that the most loaded feasible replica comes first.

    For a pool that is to shrink: what is left alone drains.
    """
    return -score_s
