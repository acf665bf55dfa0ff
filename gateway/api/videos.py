"""`/v1/videos`: create, look, list, cancel and delete; the files themselves are elsewhere."""

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from gateway.api.forms import fields_of, is_form, read_document, read_form
from gateway.api.job_access import asked, find_job, limits_of, listed, plausible, trace_of
from gateway.api.job_document import VIDEO, answers, video_request
from gateway.call import Principal
from gateway.errors import InvalidRequest
from gateway.fetch import fetch_image, image_of
from gateway.jobs.model import Job, JobKind
from gateway.jobs.outlook import Prospect
from gateway.repeats import Repeat
from gateway.services import Services
from gateway.wire.videos import shown

LEAST_POLL_MS = 500
LONGEST_POLL_MS = 15_000

router = APIRouter(prefix="/v1/videos", tags=["videos"])


@router.post("", openapi_extra=video_request(), responses=answers(VIDEO))
async def create_video(request: Request) -> Response:
    """Take a video on; JSON or multipart/form-data."""
    async with asked(request, creates=True) as (services, principal):
        repeat = Repeat.of(request.headers)
        fields, reference = await _read(request, services, principal)
        job = await services.videos.create(
            fields,
            principal,
            repeat=repeat,
            reference=reference,
            request_id=request.scope["sluice.id"],
            traceparent=trace_of(request),
        )
        return await _answer(services, job, limits_of(request))


@router.get("")
async def list_videos(
    request: Request,
    after: str | None = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    order: Literal["asc", "desc"] = "desc",
) -> Response:
    """Give the tenant's videos, newest first unless asked otherwise."""
    async with asked(request) as (services, principal):
        if after is not None and not plausible(after):
            raise InvalidRequest("Invalid 'after': the id of a video.", param="after")
        jobs, has_more = await services.jobs.page(
            JobKind.VIDEO,
            principal.tenant,
            after=after,
            limit=limit,
            newest_first=order == "desc",
        )
        prospects = await services.videos.prospect(jobs)
        data = [_shown(each, p) for each, p in zip(jobs, prospects, strict=True)]
        return listed(data, has_more=has_more)


@router.get("/{video_id}", responses=answers(VIDEO))
async def retrieve_video(request: Request, video_id: str) -> Response:
    """Say how far a video is."""
    async with asked(request) as (services, principal):
        return await _answer(services, await _find(services, principal, video_id))


@router.post("/{video_id}/cancel", responses=answers(VIDEO))
async def cancel_video(request: Request, video_id: str) -> Response:
    """Stop a video; one that has ended is given as it is."""
    async with asked(request) as (services, principal):
        job = await _find(services, principal, video_id)
        await services.jobs.cancel(job.id, now=services.clock.now())
        return await _answer(services, await _find(services, principal, video_id))


@router.delete("/{video_id}")
async def delete_video(request: Request, video_id: str) -> Response:
    """Forget a video and its files; one that is not done yet is stopped."""
    async with asked(request) as (services, principal):
        job = await _find(services, principal, video_id)
        await services.jobs.cancel(job.id, now=services.clock.now())
        await services.jobs.hide(job, now=services.clock.now())
        await services.artifacts.remove(f"videos/{job.id}")
        return JSONResponse({"id": job.id, "object": "video.deleted", "deleted": True})


async def _find(services: Services, principal: Principal, video_id: str) -> Job:
    return await find_job(services, principal, video_id, JobKind.VIDEO, "video")


async def _answer(
    services: Services, job: Job, limits: Mapping[str, str] = MappingProxyType({})
) -> Response:
    (prospect,) = await services.videos.prospect([job])
    headers = dict(limits)
    if not job.has_ended:
        headers["openai-poll-after-ms"] = str(poll_after_ms(prospect, services.clock.now()))
    return JSONResponse(_shown(job, prospect), headers=headers)


def poll_after_ms(prospect: Prospect, now: float) -> int:
    """Say when to look again: soon before the end, seldom while much is in front."""
    if prospect.eta is None:
        return 1000
    left_s = prospect.eta.earliest_at - now
    return min(max(math.ceil(left_s * 1000 / 4), LEAST_POLL_MS), LONGEST_POLL_MS)


def _shown(job: Job, prospect: Prospect) -> dict[str, Any]:
    extra: dict[str, Any] = {"queue_position": None, "eta": None}
    if not job.has_ended:
        extra["queue_position"] = prospect.position if job.status == "queued" else 0
    if prospect.eta is not None:
        eta = prospect.eta
        extra["eta"] = {
            "earliest_at": round(eta.earliest_at, 3),
            "likely_at": round(eta.likely_at, 3),
            "latest_at": round(eta.latest_at, 3),
            "coverage": 0.9,
        }
    return shown(job, extra=extra)


async def _read(
    request: Request, services: Services, principal: Principal
) -> tuple[Mapping[str, Any], bytes | None]:
    """Read the fields, and the image that they name or bring."""
    most = services.settings.jobs.reference_bytes
    if not is_form(request):
        fields = await read_document(request, services)
        return fields, await _reference(fields.get("input_reference"), services, principal)
    form = await read_form(request, most_bytes=most)
    try:
        fields, uploads = fields_of(form)
        upload = uploads.pop("input_reference", None)
        if uploads:
            name = next(iter(uploads))
            raise InvalidRequest(f"Unexpected file '{name[:100]}'.", param=name[:100])
        if upload is not None:
            return fields, await _uploaded(upload, most)
        return fields, await _reference(fields.get("input_reference"), services, principal)
    finally:
        await form.close()


async def _uploaded(upload: UploadFile, most: int) -> bytes:
    data = await upload.read(most + 1)
    return image_of(data, most_bytes=most)


async def _reference(value: Any, services: Services, principal: Principal) -> bytes | None:
    """Give the image behind `input_reference`: a URL, a data URL, or a file of the tenant."""
    if value in (None, ""):
        return None
    most = services.settings.jobs.reference_bytes
    fetching = services.settings.fetch
    if isinstance(value, str):
        value = {"image_url": value}
    if not isinstance(value, Mapping):
        raise InvalidRequest(
            "Invalid 'input_reference': a file, {image_url} or {file_id}.",
            param="input_reference",
            code="invalid_type",
        )
    if isinstance(found := value.get("image_url"), str):
        return await fetch_image(
            found,
            most_bytes=most,
            timeout_s=fetching.timeout_s,
            allow_private=fetching.allow_private,
        )
    if isinstance(found := value.get("file_id"), str):
        return image_of(
            await services.files.content(
                principal.tenant, found, most_bytes=most, param="input_reference"
            ),
            most_bytes=most,
        )
    raise InvalidRequest(
        "Invalid 'input_reference': it needs an 'image_url' or a 'file_id'.",
        param="input_reference",
    )
