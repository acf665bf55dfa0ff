"""How does what a caller asks become a video job: for which model, at which price, only once?"""

import hashlib
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from backends.clock import Clock
from backends.fleet import EngineKind
from backends.registry import Registry
from backends.slo import Class
from backends.video_order import KNOWN_LIMITS, VideoLimits
from gateway.artifacts import Artifacts, put
from gateway.call import Principal
from gateway.classes import place
from gateway.errors import (
    Conflict,
    GatewayError,
    InvalidRequest,
    ModelNotFound,
    QueueFull,
    RateLimited,
)
from gateway.jobs.model import Job, JobKind, NewJob, Quota, Submitted, Taken, new_id
from gateway.jobs.outlook import Outlook, Prospect
from gateway.jobs.store import JobStore
from gateway.limits import span
from gateway.repeats import FIRST_TRY, Repeat, marks_of
from gateway.settings import Settings
from gateway.wire.videos import FIELDS, read_order

VIDEO_UNITS = "pixel-frame-steps"


class QuotaSpent(RateLimited):
    """The tenant has used up what it may make in this window; final where one is too large."""

    type, code = "insufficient_quota", "insufficient_quota"


class TooLate(GatewayError):
    """The queue is so long that the job would miss its deadline."""

    status, type, code = 429, "rate_limit_error", "deadline_unreachable"


class VideoIntake:
    """Takes videos on for one gateway process."""

    def __init__(
        self,
        settings: Settings,
        jobs: JobStore,
        outlook: Outlook,
        registry: Registry,
        artifacts: Artifacts,
        clock: Clock,
        classes: Mapping[str, Class],
    ) -> None:
        self._settings = settings
        self._jobs = jobs
        self._outlook = outlook
        self._registry = registry
        self._artifacts = artifacts
        self._clock = clock
        self._classes = classes

    def models(self, principal: Principal) -> list[str]:
        """Name the models of this key that make videos."""
        pools = self._registry.fleet.pools
        known = {*self._settings.models, *pools}
        return sorted(m for m in known if self.makes_videos(m) and principal.may_use_model(m))

    def makes_videos(self, model: str) -> bool:
        """Whether a model makes videos."""
        settings = self._settings.models.get(model)
        if settings is not None and settings.engine is EngineKind.DIFFUSION:
            return True
        return EngineKind.DIFFUSION in self._registry.fleet.pool(model).engines

    def limits(self, model: str) -> VideoLimits:
        """Give what a model can make."""
        known = KNOWN_LIMITS.get(model, VideoLimits())
        settings = self._settings.models.get(model)
        video = settings.video if settings is not None else None
        return known if video is None else video.limits(known)

    def resolve(self, model: object, principal: Principal) -> str:
        """Find the model that is meant; without a name, the only one that makes videos."""
        mine = self.models(principal)
        if model in (None, ""):
            if len(mine) == 1:
                return mine[0]
            raise InvalidRequest(
                "Missing required parameter: 'model'.",
                param="model",
                code="missing_required_parameter",
            )
        if not isinstance(model, str):
            raise InvalidRequest("Invalid 'model': a text.", param="model", code="invalid_type")
        if model in mine:
            return model
        known = {*self._settings.models, *self._registry.fleet.pools}
        if model in known and principal.may_use_model(model):
            raise InvalidRequest(f"The model '{model[:200]}' makes no videos.", param="model")
        raise ModelNotFound(model)

    async def create(
        self,
        fields: Mapping[str, Any],
        principal: Principal,
        *,
        repeat: Repeat = FIRST_TRY,
        reference: bytes | None = None,
        known: frozenset[str] = FIELDS,
        within_s: float | None = None,
        class_name: str | None = None,
        request_id: str = "",
        traceparent: str = "",
    ) -> Job:
        """Take a video on and give its job; a repeated creation gives the one that was made.

        `within_s` shortens the time until its deadline. Raises InvalidRequest, ModelNotFound,
        Conflict, QueueFull, QuotaSpent, TooLate, and redis.exceptions.RedisError.
        """
        model = self.resolve(fields.get("model"), principal)
        limits = self.limits(model)
        asked = read_order(fields, limits, seed=secrets.randbelow(2**31), known=known)
        if reference is not None and not limits.takes_reference:
            raise InvalidRequest(
                f"The model '{model}' takes no image; leave 'input_reference' out.",
                param="input_reference",
            )
        now, deadline_s = self._clock.now(), self._deadline_s(model, within_s)
        if class_name is None:
            default = self._settings.default_class
            class_name = place(asked.tier, principal, self._classes, default).class_name
        image = None if reference is None else hashlib.sha256(reference).hexdigest()
        told = {**fields, "model": model, "input_reference": image}
        own, retried = marks_of(repeat, principal, "video", told)
        job_id = new_id("video_", now)
        new = NewJob(
            id=job_id,
            kind=JobKind.VIDEO,
            tenant=principal.tenant,
            pool=model,
            class_name=class_name,
            rank=self._classes[class_name].rank,
            payload={"order": asked.order.encode(), "reference": None},
            units=asked.order.units,
            deadline=now + deadline_s,
            ttl_s=self._settings.jobs.video_ttl_s,
            key_id=principal.key_id,
            request_id=request_id,
            traceparent=traceparent,
            idempotency=own,
            retried=retried,
            quota=self._quota(principal.tenant, asked.order.units, now),
            most_waiting=self._settings.jobs.most_waiting,
        )
        late_by_s = await self._late_by_s(new, deadline_s)
        if reference is not None:
            written = await put(self._artifacts, f"videos/{job_id}/reference", reference)
            new = replace(new, payload={**new.payload, "reference": written.name})
        submitted = await self._jobs.submit(new, now=now, known_only=late_by_s > 0)
        return await self._made(submitted, new, now, late_by_s)

    async def prospect(self, jobs: Sequence[Job]) -> list[Prospect]:
        """Say when jobs will be done, and how many are before each."""
        replicas = {job.pool: len(self._registry.fleet.pool(job.pool).routable) for job in jobs}
        return await self._outlook.prospects(jobs, replicas, now=self._clock.now())

    def _deadline_s(self, model: str, within_s: float | None) -> float:
        """Give the time that a new video has, which a caller may shorten."""
        settings = self._settings.models.get(model)
        video = settings.video if settings is not None else None
        deadline_s = video.deadline_s if video is not None else 6 * 3600.0
        return deadline_s if within_s is None else min(deadline_s, within_s)

    async def _late_by_s(self, new: NewJob, deadline_s: float) -> float:
        """Say by how much a new video would miss its deadline at best; 0 where it might not."""
        replicas = len(self._registry.fleet.pool(new.pool).routable)
        earliest_s = await self._outlook.earliest_s(
            new.pool, new.rank, new.units, replicas=replicas
        )
        return 0.0 if earliest_s is None else max(earliest_s - deadline_s, 0.0)

    def _quota(self, tenant: str, units: float, now: float) -> Quota | None:
        settings = self._settings.jobs
        limit = settings.quotas.get(tenant, settings.quota_units)
        if limit is None:
            return None
        window_s = settings.quota_window_s
        key = f"sluice:jobs:quota:{tenant}:{int(now // window_s)}"
        return Quota(key, units, limit, int(window_s) + 1)

    async def _made(self, submitted: Submitted, new: NewJob, now: float, late_by_s: float) -> Job:
        deadline_s = new.deadline - now
        match submitted.taken:
            case Taken.MADE | Taken.REPLAYED:
                job = await self._jobs.find(submitted.job_id)
                if job is None:
                    raise GatewayError("The video could not be read back.")
                return job
            case Taken.CONFLICT:
                raise Conflict(
                    "This Idempotency-Key stands for another request.", param="Idempotency-Key"
                )
            case Taken.FULL:
                raise QueueFull(self._settings.queue.retry_after_s)
            case Taken.QUOTA:
                window_s = self._settings.jobs.quota_window_s
                limit = new.quota.limit if new.quota is not None else 0.0
                after_s = window_s - now % window_s
                raise QuotaSpent(
                    f"The quota of {limit:g} pixel-frame-steps per {window_s:g} s has"
                    f" {max(limit - submitted.used, 0):g} left; this video takes {new.units:g}.",
                    unit=VIDEO_UNITS,
                    headers={
                        f"x-ratelimit-limit-{VIDEO_UNITS}": f"{limit:.0f}",
                        f"x-ratelimit-remaining-{VIDEO_UNITS}": f"{limit - submitted.used:.0f}",
                        f"x-ratelimit-reset-{VIDEO_UNITS}": span(after_s),
                    },
                    retry_after_s=None if new.units > limit else after_s,
                    final=new.units > limit,
                )
            case Taken.UNKNOWN:
                raise TooLate(
                    f"The video would be done in {late_by_s + deadline_s:.0f} s, after its deadline"
                    f" of {deadline_s:.0f} s.",
                    retry_after_s=late_by_s,
                )
