"""How does a caller get a video's bytes: whole, in part, as a still, with or without a key?"""

import asyncio
import re
from collections.abc import AsyncIterator
from typing import Literal

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from gateway import clips
from gateway.api.job_access import asked, find_job
from gateway.artifacts import NoArtifact, get, put
from gateway.errors import Conflict, Forbidden, GatewayError, InvalidRequest, NotFound
from gateway.jobs.model import Job, JobKind
from gateway.services import Services

Variant = Literal["video", "thumbnail", "spritesheet"]
KINDS = {"video": "video/mp4", "thumbnail": "image/webp", "spritesheet": "image/webp"}
ARTIFACTS_PATH = "/v1/artifacts/videos"
_RANGE = re.compile(r"bytes=(\d*)-(\d*)")

router = APIRouter(tags=["videos"])


class RangeNotSatisfiable(GatewayError):
    """The part that is asked for lies outside of the file."""

    status, type, code, retryable = 416, "invalid_request_error", "range_not_satisfiable", False

    def __init__(self, size: int) -> None:
        super().__init__(f"The file has {size} bytes.")
        self.headers = {"content-range": f"bytes */{size}"}


@router.get("/v1/videos/{video_id}/content")
@router.head("/v1/videos/{video_id}/content", include_in_schema=False)
async def download_video(request: Request, video_id: str, variant: Variant = "video") -> Response:
    """Give the file, a still of its first frame, or a sheet of stills."""
    async with asked(request) as (services, principal):
        job = await find_job(services, principal, video_id, JobKind.VIDEO, "video")
        return await give(request, services, job, variant)


@router.get(ARTIFACTS_PATH + "/{video_id}/{variant}")
async def open_link(
    request: Request, video_id: str, variant: Variant, expires: int, signature: str
) -> Response:
    """Give a file to whoever holds a signed link."""
    services: Services = request.app.state.services
    path = f"{ARTIFACTS_PATH}/{video_id}/{variant}"
    now = services.clock.now()
    if not await services.signer.is_good(path, expires, signature, now=now):
        raise Forbidden("The link is not valid, or has expired.")
    job = await services.jobs.find(video_id)
    if job is None or job.hidden or job.kind is not JobKind.VIDEO:
        raise NotFound("This video is gone.")
    return await give(request, services, job, variant)


async def give(request: Request, services: Services, job: Job, variant: Variant) -> Response:
    """Answer with an artifact of a video that is done; raises a GatewayError otherwise."""
    if job.status == "failed":
        error = job.error
        raise Conflict(
            f"The video failed: {error.message if error else 'unknown'}", code="video_failed"
        )
    if job.status != "completed":
        raise Conflict("The video is not ready yet.", code="video_not_ready")
    try:
        name = await _ensure(services, job, variant)
        size = await services.artifacts.size(name)
    except NoArtifact:
        raise NotFound("The video's file has expired.", code="video_expired") from None
    etag = f'"{str(job.result["sha256"])[:32]}-{variant}"'
    headers = {
        "etag": etag,
        "accept-ranges": "bytes",
        "cache-control": "private, max-age=31536000, immutable",
        "content-disposition": f'attachment; filename="{job.id}.{_ending(variant)}"',
        "x-content-type-options": "nosniff",
    }
    if etag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    start, end = _part(request, size, etag)
    status = 200
    if (start, end) != (0, size):
        status = 206
        headers["content-range"] = f"bytes {start}-{end - 1}/{size}"
    headers["content-length"] = str(end - start)
    if request.method == "HEAD":
        return Response(status_code=status, headers=headers, media_type=KINDS[variant])
    body = services.artifacts.read(name, start, end)
    return StreamingResponse(
        await _begun(body), status_code=status, headers=headers, media_type=KINDS[variant]
    )


async def _ensure(services: Services, job: Job, variant: Variant) -> str:
    """Name the artifact; stills are made when they are first asked for, and kept."""
    video = str(job.result["artifact"])
    if variant == "video":
        return video
    name = f"{video.rpartition('/')[0]}/{variant}.webp"
    try:
        await services.artifacts.size(name)
    except NoArtifact:
        make = clips.thumbnail if variant == "thumbnail" else clips.spritesheet
        data = await get(services.artifacts, video)
        try:
            still = await asyncio.to_thread(make, data)
        except ValueError:
            raise NotFound(f"This video has no {variant}.", param="variant") from None
        await put(services.artifacts, name, still)
    return name


def _part(request: Request, size: int, etag: str) -> tuple[int, int]:
    """Read `Range`: one part of bytes; anything else that is not wrong gives the whole."""
    asked_for = request.headers.get("range")
    condition = request.headers.get("if-range")
    if asked_for is None or (condition is not None and condition != etag):
        return 0, size
    found = _RANGE.fullmatch(asked_for.replace(" ", ""))
    if found is None or found[0] == "bytes=-":
        if "," in asked_for or not asked_for.startswith("bytes="):
            return 0, size
        raise InvalidRequest("Invalid 'Range': bytes=FIRST-LAST.", param="Range")
    first, last = found[1], found[2]
    start = int(first) if first else max(size - int(last), 0)
    end = min(int(last) + 1, size) if first and last else size
    if start >= end:
        raise RangeNotSatisfiable(size)
    return start, end


async def _begun(body: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Read the first piece before the status is sent."""
    first = await anext(body, b"")

    async def pieces() -> AsyncIterator[bytes]:
        yield first
        async for piece in body:
            yield piece

    return pieces()


def _ending(variant: Variant) -> str:
    return "mp4" if variant == "video" else "webp"
