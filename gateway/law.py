"""How fast is each replica really? The step law, learnt from what replicas report and calls show.

A replica starts with what its kind (model, hardware) has shown, and a kind with its profile; after
that each replica's own reports decide, so that a fleet of mixed speeds needs no telling.
"""

from collections.abc import Collection
from dataclasses import dataclass
from math import inf

from backends.capacity import StepLaw
from backends.fleet import Load, Replica
from backends.hardware import Profile, UnknownHardware
from backends.measured import BUILT_IN, Profiles
from gateway.law_fit import Fit, shares_steps, window

TRUSTED_RUNNING = 16.0  # calls at once that any replica is given before it has shown anything
BEYOND = 2.0  # the law is trusted up to this factor of the occupancy that it was seen at
_FALLBACK_HARDWARE = "mi355x"


@dataclass(frozen=True, slots=True)
class Speed:
    """What is believed of one replica at `at` (Unix seconds; 0: nothing was ever learnt).

    `prefill_token_s` is the seconds per uncached prompt token. The law is believed for up to
    `trusted_running` calls at once; each one beyond is taken to cost `doubt` times what it says
    (infinite: no more are given). `residual` is its mean relative error of late.
    """

    law: StepLaw
    prefill_token_s: float
    chunk_tokens: int
    trusted_running: float
    residual: float
    at: float
    doubt: float = inf


class _Learner:
    """One replica's fit, and the report that the next one is compared with."""

    __slots__ = ("at", "before", "fit", "overlap", "prefill_token_s", "profile", "seen_running")

    def __init__(self, known: Profile, kind: "_Learner | None") -> None:
        self.profile = known
        self.before: Load | None = None
        self.seen_running: float
        self.overlap: float
        self.prefill_token_s: float | None
        self.fit: Fit = Fit(known.law, like=kind.fit if kind and kind.fit.seen else None)
        self.seen_running = 0.0 if kind is None else kind.seen_running
        self.overlap = 1.0 if kind is None else kind.overlap  # 1: prefill shares decoding's steps
        self.prefill_token_s = None if kind is None else kind.prefill_token_s
        self.at = 0.0

    def speed(self) -> Speed:
        law = self.fit.law
        own = self.prefill_token_s if self.overlap < 0.5 else None
        return Speed(
            law,
            law.prefill_token_s if own is None else own,
            self.profile.chunk_tokens,
            max(TRUSTED_RUNNING, BEYOND * self.seen_running),
            self.fit.residual,
            self.at,
            self.fit.doubt,
        )


class LiveLaw:
    """The laws of all replicas that this gateway knows."""

    def __init__(self, profiles: Profiles = BUILT_IN) -> None:
        self._profiles = profiles
        self._replicas: dict[str, _Learner] = {}
        self._kinds: dict[tuple[str, str], _Learner] = {}

    def speed(self, replica: Replica) -> Speed:
        """Give what is believed of a replica now."""
        return self._learner(replica).speed()

    def report(self, replica: Replica, load: Load) -> None:
        """Learn from a new load report.

        A replica whose engine has just begun, or that was idle, teaches nothing.
        """
        learner = self._learner(replica)
        before, learner.before = learner.before, load
        if before is None or before.at >= load.at:
            return
        told = shares_steps(before, load)
        if told is not None:
            learner.overlap += 0.3 * (float(told) - learner.overlap)
        found = window(before, load, shared=learner.overlap >= 0.5)
        if found is None:
            return
        kind = self._kinds[replica.model, replica.hardware]
        for each in (learner, kind):
            work_s = each.fit.work_s(found.decoding, found.prefill, found.kv)
            each.fit.observe(found.step_s, work_s)
            each.seen_running = max(found.decoding, 0.999 * each.seen_running)
            each.at = load.seen_at
            if found.prefill_token_s is not None:
                last = each.prefill_token_s or found.prefill_token_s
                each.prefill_token_s = last + 0.3 * (found.prefill_token_s - last)
        kind.overlap = learner.overlap

    def timed(
        self, replica: Replica, tpot_s: float, *, running: float, kv_tokens: float, now: float
    ) -> None:
        """Learn from one call's own time per token, where the replica reports no steps.

        `running` and `kv_tokens` are what the replica had on average meanwhile.
        """
        learner = self._learner(replica)
        if learner.before is not None and learner.before.decode is not None:
            return
        work_s = learner.fit.work_s(running, 0.0, kv_tokens)
        learner.fit.observe(tpot_s, work_s, weight=0.25)
        learner.seen_running = max(running, 0.999 * learner.seen_running)
        learner.at = now

    def keep_only(self, ids: Collection[str]) -> None:
        """Forget replicas that are gone; what their kinds have shown stays."""
        for gone in self._replicas.keys() - set(ids):
            del self._replicas[gone]

    def _learner(self, replica: Replica) -> _Learner:
        found = self._replicas.get(replica.id)
        if found is None:
            name = (replica.model, replica.hardware)
            kind = self._kinds.get(name)
            if kind is None:
                kind = self._kinds[name] = _Learner(self._profile(*name), None)
            found = self._replicas[replica.id] = _Learner(kind.profile, kind)
        return found

    def _profile(self, model: str, hardware: str) -> Profile:
        """Give a kind's profile; hardware not known is taken for an MI355X until it shows."""
        try:
            return self._profiles.profile(model, hardware)
        except UnknownHardware:
            return self._profiles.profile(model, _FALLBACK_HARDWARE)
