"""`POST /v1/videos/generations`: a video while the caller waits, as MLCommons' client asks."""

import asyncio
import base64
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive

from gateway.api.forms import read_document
from gateway.api.job_access import asked, trace_of
from gateway.api.job_document import GENERATION_REQUEST, body
from gateway.api.video_content import ARTIFACTS_PATH
from gateway.artifacts import get
from gateway.errors import DeadlineExceeded, EngineFailed, GatewayError, InvalidRequest
from gateway.jobs.model import Job, JobStatus
from gateway.repeats import Repeat
from gateway.services import Services
from gateway.wire.videos import BOUNDARY_RATIO, GENERATION_FIELDS

LOOK_EVERY_S = 0.1
SLOWEST_LOOK_S = 1.0
LONGEST_WAIT_S = 3600.0

router = APIRouter(tags=["videos"])


@router.post(
    "/v1/videos/generations", openapi_extra=body(**{"application/json": GENERATION_REQUEST})
)
async def generate_video(request: Request) -> Response:
    """Make a video and answer with it; a caller who leaves stops it."""
    async with asked(request, creates=True) as (services, principal):
        fields = await read_document(request, services)
        as_bytes = _checked(fields)
        repeat = Repeat.of(request.headers)
        patience_s = LONGEST_WAIT_S
        if "x-stainless-read-timeout" in request.headers:
            patience_s = max(repeat.patience_s - 1.0, 1.0)
        job = await services.videos.create(
            fields,
            principal,
            repeat=repeat,
            known=GENERATION_FIELDS,
            within_s=patience_s,
            request_id=request.scope["sluice.id"],
            traceparent=trace_of(request),
        )
        job = await _wait(services, job, request.receive)
        if as_bytes:
            data = await get(services.artifacts, str(job.result["artifact"]))
            found = {"video_bytes": base64.b64encode(data).decode()}
        else:
            path = f"{ARTIFACTS_PATH}/{job.id}/video"
            found = {"video_path": await services.signer.sign(path, now=services.clock.now())}
        return JSONResponse({"video_id": job.id, **found})


def _checked(fields: dict[str, Any]) -> bool:
    """Check what is not the engine's; say whether the bytes are wanted. Raises InvalidRequest."""
    form = fields.get("response_format", "video_path")
    if form not in ("video_path", "video_bytes"):
        raise InvalidRequest(
            "Invalid 'response_format': video_path or video_bytes.", param="response_format"
        )
    if fields.get("latent_path"):
        raise InvalidRequest(
            "Paths on the server are not taken; leave 'latent_path' out and give a seed.",
            param="latent_path",
            code="unsupported_parameter",
        )
    if fields.get("output_format", "auto") not in ("auto", "mp4"):
        raise InvalidRequest("Invalid 'output_format': auto or mp4.", param="output_format")
    ratio = fields.get("boundary_ratio")
    if ratio is not None and ratio != BOUNDARY_RATIO:
        raise InvalidRequest(
            f"Invalid 'boundary_ratio': the model runs with {BOUNDARY_RATIO}.",
            param="boundary_ratio",
        )
    return bool(form == "video_bytes")


async def _wait(services: Services, job: Job, receive: Receive) -> Job:
    """Wait for the end of a job; raises what it failed with."""
    leaving = asyncio.ensure_future(_until_left(receive))
    pause_s = LOOK_EVERY_S
    try:
        while not job.has_ended:
            await asyncio.wait({leaving}, timeout=pause_s)
            if leaving.done():
                await services.jobs.cancel(job.id, now=services.clock.now())
                raise GatewayError("The caller left before the video was done.")
            pause_s = min(pause_s * 1.2, SLOWEST_LOOK_S)
            found = await services.jobs.find(job.id)
            if found is None:
                raise GatewayError("The video is gone.")
            job = found
    finally:
        leaving.cancel()
    if job.status is JobStatus.FAILED:
        raise _failure(job)
    return job


def _failure(job: Job) -> GatewayError:
    code = job.error.code if job.error is not None else "generation_failed"
    message = job.error.message if job.error is not None else "The video failed."
    if code == "deadline_exceeded":
        return DeadlineExceeded(message)
    return EngineFailed(message, code=code)


async def _until_left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
