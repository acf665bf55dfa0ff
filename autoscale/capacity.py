"""How many units does a class mix need, and how fast are the replicas really?

Work per second of each class, divided by the share of a second that the class's permitted step
leaves (`1 - c0/step`); the law's constants are corrected by what replicas report. Pure.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from backends.capacity import StepLaw, permitted_step_s, share, work_s
from backends.fleet import Load
from backends.hardware import REFERENCE_HARDWARE, Profile, profile
from backends.slo import Class

# An engine compiles kernels and fills caches at first; what it reports then is no measure of it.
WARMING_S = 120.0
_LEAST_STEPS = 16.0
_FORGET = 0.98
_BOUNDS = (0.25, 4.0)
_OFFLINE_SHARE = 0.95
_CAUTION = 0.97  # 0.69 by the law is 0.67 in the calibrated simulations of Interactive


def class_share(law: StepLaw, promise: Class, model: str) -> float:
    """Give the seconds of token work per second that a replica does within a class's limits.

    0 where the limit cannot be held at any load: unreachable at any number of replicas.
    """
    targets = promise.targets(model)
    if targets.tpot_s is None:
        return _OFFLINE_SHARE
    return _CAUTION * share(law, permitted_step_s(targets))


def slower(known: Profile) -> float:
    """Say how many times the seconds a mean call takes here that gateways count for it.

    They count every call's work by the built-in law of its model on an MI355X.
    """
    counted = profile(known.model, REFERENCE_HARDWARE).law
    return work_s(known.law, known.mix) / work_s(counted, known.mix)


def units_needed(
    work_per_s: Mapping[str, float], shares: Mapping[str, float], *, replicas_per_unit: int = 1
) -> float:
    """Give the units that the work of the classes needs together, each at its own share.

    Classes share replicas: while interactive calls are few, the rest may fill up to its own limit.
    """
    total = 0.0
    for name, work in work_per_s.items():
        if shares.get(name, 0.0) > 0.0:
            total += work / shares[name]
    return total / replicas_per_unit


@dataclass(frozen=True, slots=True)
class Slowness:
    """How many times the law's token work a replica kind takes; 1 until it has shown otherwise."""

    factor: float = 1.0
    weight: float = 0.0


def learned(
    known: Slowness, law: StepLaw, before: Load, after: Load, *, serving_s: float
) -> Slowness:
    """Correct the belief by two reports of one replica, `serving_s` after it came into service.

    Compares the mean measured step with the law's for the same decoding, prefill and KV tokens:
    `(step - c0) / (law's step - c0)`, averaged with older ones, held within 0.25 and 4. A warming
    replica, a restarted engine and an idle one teach nothing.
    """
    if serving_s < WARMING_S or before.decode is None or after.decode is None:
        return known
    steps = after.decode.steps - before.decode.steps
    if steps < _LEAST_STEPS:
        return known
    step_s = (after.decode.t_us - before.decode.t_us) / steps / 1e6
    decoding = (after.decode.b - before.decode.b) / steps
    prefill = (after.prefill_uncached_tokens - before.prefill_uncached_tokens) / steps
    kv = (before.used_tokens + after.used_tokens) / 2.0
    expected_s = law.step_s(decoding, max(prefill, 0.0), kv) - law.c0_s
    if expected_s < 0.1 * law.c0_s:  # c0 would drown what is to be learnt
        return known
    seen = min(max((step_s - law.c0_s) / expected_s, _BOUNDS[0]), _BOUNDS[1])
    weight = known.weight * _FORGET + 1.0
    return Slowness(known.factor + (seen - known.factor) / (weight + 4.0), weight)
