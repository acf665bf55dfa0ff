"""Which constants of the step law fit what one replica has been seen to do? Pure.

The law is `T = c0 + slowness * (c_tok*tokens + c_kv*kv)`, with c_tok and c_kv as the profile of the
hardware has them: two unknowns, which a replica's reports tell apart, where four would not be.
"""

from dataclasses import dataclass
from math import inf, sqrt

from backends.capacity import StepLaw
from backends.fleet import Load

LEAST_STEPS = 8.0  # of decoding in a window, below which its mean says little
WARM_STEPS = 64.0  # of an engine's first steps: kernels are being compiled, nothing is learnt
SHORTEST_S, LONGEST_S = 0.2, 15.0  # of a window
FORGET = 0.97  # what an observation still weighs when the next one comes
LEAST_SLOWNESS, MOST_SLOWNESS = 0.02, 20_000.0
C0_RANGE = 30.0  # c0 stays within this factor of the profile's
_C0_TRUST = 0.05  # what the profile's c0 weighs, in observations
_SLOWNESS_TRUST = 1e-5
_OUTLIER = 4.0  # mean residuals: farther observations count for less
_REGIME = 4  # so many outliers in a row are no outliers
_LEAST_SEEN, _LEAST_ERROR = 4, 0.01


@dataclass(frozen=True, slots=True)
class Window:
    """What a replica did between two reports: means over its decode steps.

    `step_s` is the mean step, in which `decoding` sequences and `prefill` prompt tokens went
    through, with `kv` tokens resident. `prefill_token_s` is the seconds per prompt token where
    prefill has steps of its own (None where it shares decoding's).
    """

    step_s: float
    decoding: float
    prefill: float
    kv: float
    prefill_token_s: float | None = None


def shares_steps(before: Load, after: Load) -> bool | None:
    """Say whether prefill goes through the steps of decoding; None where these two cannot tell.

    Busy with decoding all the time, an engine whose prefill has its own steps spends the wall's
    time on both together; one that shares steps counts some of it twice.
    """
    found = _deltas(before, after)
    if found is None or min(before.running, after.running) < 2:
        return None
    if found.prefill_s < 0.05 * found.wall_s:
        return None
    return found.decode_s + found.prefill_s > 1.03 * found.wall_s


def window(before: Load, after: Load, *, shared: bool) -> Window | None:
    """Read the mean step out of two reports of one replica.

    None where they say nothing: no moments, a restart between them, too few steps, an engine that
    has just begun, or reports too near or too far from each other.
    """
    found = _deltas(before, after)
    if found is None or found.steps < LEAST_STEPS:
        return None
    decoding = found.batch / found.steps
    kv = (before.used_tokens + after.used_tokens) / 2.0
    if not shared:
        own = found.prefill_s / found.prefill if found.prefill >= 64 else None
        return Window(found.decode_s / found.steps, decoding, 0.0, kv, own)
    if found.prefill and decoding < 1.5:
        return None  # much of the prefill was in steps without decoding, which are not counted
    return Window(found.decode_s / found.steps, decoding, found.prefill / found.steps, kv)


@dataclass(frozen=True, slots=True)
class _Deltas:
    wall_s: float
    steps: float
    batch: float
    decode_s: float
    prefill: float
    prefill_s: float


def _deltas(before: Load, after: Load) -> _Deltas | None:
    old, new = before.decode, after.decode
    if old is None or new is None or old.steps < WARM_STEPS:
        return None
    found = _Deltas(
        wall_s=after.at - before.at,
        steps=new.steps - old.steps,
        batch=new.b - old.b,
        decode_s=(new.t_us - old.t_us) / 1e6,
        prefill=after.prefill_uncached_tokens - before.prefill_uncached_tokens,
        prefill_s=(after.prefill_busy_us - before.prefill_busy_us) / 1e6,
    )
    grew = min(found.steps, found.batch, found.decode_s, found.prefill, found.prefill_s) >= 0
    return found if grew and SHORTEST_S <= found.wall_s <= LONGEST_S else None


class Fit:
    """Recursive least squares with forgetting, of the relative error, with a prior.

    Formula: minimises `sum FORGET^age * ((step - c0 - slowness*x) / step)^2` plus weak terms that
    hold c0 and slowness to the prior; x is the token work of the step at the profile's speed
    (seconds). Constants stay within bounds. An observation whose residual is over four times the
    mean one counts for as little as one at that distance, unless four come in a row: then the
    replica has changed. With no observation the fit is its prior.
    """

    __slots__ = ("_profile", "_strange", "_sums", "c0_s", "residual", "seen", "slowness")

    def __init__(self, profile: StepLaw, *, like: "Fit | None" = None) -> None:
        self._profile = profile
        self.c0_s: float
        self.slowness: float
        self.c0_s = profile.c0_s if like is None else like.c0_s
        self.slowness = 1.0 if like is None else like.slowness
        self.seen = 0
        self.residual = 0.5  # mean |relative error| of late
        self._strange = 0
        # Sums of: 1, c, c*s, s*s and the right-hand sides, all relative to the step's length.
        self._sums = [0.0] * 5
        self._begin()

    @property
    def law(self) -> StepLaw:
        """The constants as they are now."""
        known, by = self._profile, self.slowness
        prefill = None if known.c_pre_s is None else known.c_pre_s * by
        return StepLaw(self.c0_s, known.c_tok_s * by, known.c_kv_s * by, prefill)

    @property
    def doubt(self) -> float:
        """By what factor token work may cost more than the law says, as far as was seen.

        Formula: `(slowness + 2*se) / slowness` with `se = error * sqrt(cc / determinant)` of the
        least squares, error the mean residual of late, 1 % at least: near 1 where windows of
        different load agree, large where all were alike, infinite before four were seen.
        """
        if self.seen < _LEAST_SEEN:
            return inf
        cc, cs, ss, *_ = self._sums
        determinant = cc * ss - cs * cs
        if determinant <= 1e-12 * cc * ss:
            return inf
        error = max(self.residual, _LEAST_ERROR)
        return 1.0 + 2.0 * error * sqrt(cc / determinant) / self.slowness

    def work_s(self, decoding: float, prefill: float, kv: float) -> float:
        """Give the token work of a step at the profile's speed."""
        known = self._profile
        return known.c_tok_s * decoding + known.prefill_token_s * prefill + known.c_kv_s * kv

    def observe(self, step_s: float, work_s: float, *, weight: float = 1.0) -> None:
        """Take in that a step with this token work took so long."""
        if step_s <= 0.0 or work_s < 0.0:
            return
        error = abs(step_s - self.c0_s - self.slowness * work_s) / step_s
        allowed = _OUTLIER * self.residual + 0.05
        if error > allowed and self.seen >= 4:
            self._strange += 1
            if self._strange >= _REGIME:
                self._begin()
            else:
                weight *= allowed / error
                error = allowed
        else:
            self._strange = 0
        self.seen += 1
        self.residual += 0.2 * (min(error, 1.0) - self.residual)
        self._add(1.0 / step_s, work_s / step_s, weight)
        self._solve()

    def _begin(self) -> None:
        """Start from what is believed now, weakly."""
        self._sums = [0.0] * 5
        self._strange = 0

    def _add(self, c: float, s: float, weight: float) -> None:
        sums = self._sums
        for index, term in enumerate((c * c, c * s, s * s, c, s)):
            sums[index] = FORGET * sums[index] + weight * term

    def _solve(self) -> None:
        prior = self._profile.c0_s
        hold_c0 = _C0_TRUST / (prior * prior)
        hold_s = _SLOWNESS_TRUST / max(self.slowness, 1.0) ** 2
        cc, cs, ss, c1, s1 = self._sums
        cc, c1 = cc + hold_c0, c1 + hold_c0 * prior
        ss, s1 = ss + hold_s, s1 + hold_s * self.slowness
        determinant = cc * ss - cs * cs
        if determinant <= 1e-12 * cc * ss:
            return
        c0 = (c1 * ss - s1 * cs) / determinant
        slowness = (s1 * cc - c1 * cs) / determinant
        lowest, highest = prior / C0_RANGE, prior * C0_RANGE
        if not lowest <= c0 <= highest:  # one of the two at its bound: fit the other alone
            c0 = min(max(c0, lowest), highest)
            slowness = (s1 - cs * c0) / ss
        if slowness < LEAST_SLOWNESS:
            c0 = min(max((c1 - cs * LEAST_SLOWNESS) / cc, lowest), highest)
        self.c0_s = c0
        self.slowness = min(max(slowness, LEAST_SLOWNESS), MOST_SLOWNESS)
