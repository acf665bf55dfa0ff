"""`/v1/files`: what batches read and write; bodies are streamed to where artifacts lie."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from gateway.api.forms import fields_of, is_form, named, read_form
from gateway.api.job_access import asked, limits_of, listed, plausible
from gateway.api.job_document import FILE_REQUEST, body
from gateway.artifacts import PIECE_BYTES, NoArtifact, Written
from gateway.errors import InvalidRequest, NotFound, UnsupportedMediaType
from gateway.files import StoredFile
from gateway.jobs.model import new_id
from gateway.services import Services

PURPOSES = ("batch", "vision", "user_data", "assistants", "fine-tune", "evals")
LEAST_EXPIRY_S, MOST_EXPIRY_S = 3600, 2_592_000

router = APIRouter(prefix="/v1/files", tags=["files"])


@router.post("", openapi_extra=body(**{"multipart/form-data": FILE_REQUEST}))
async def create_file(request: Request) -> Response:
    """Take a file: multipart/form-data with `file` and `purpose`."""
    async with asked(request, creates=True) as (services, principal):
        if not is_form(request):
            raise UnsupportedMediaType("The content type must be multipart/form-data.")
        form = await read_form(request, most_bytes=services.settings.jobs.file_bytes)
        try:
            fields, uploads = fields_of(form)
            purpose = named(fields, "purpose")
            if purpose not in PURPOSES:
                raise InvalidRequest(
                    f"Invalid 'purpose': '{purpose[:50]}'; allowed: {', '.join(PURPOSES)}.",
                    param="purpose",
                )
            upload = uploads.get("file")
            if upload is None:
                raise InvalidRequest(
                    "Missing required parameter: 'file'.",
                    param="file",
                    code="missing_required_parameter",
                )
            now = services.clock.now()
            lives_s = expiry_s(fields.get("expires_after"), "expires_after")
            file_id = new_id("file-", now)
            written = await _copy(services, upload, f"files/{file_id}")
            file = await services.files.add(
                principal.tenant,
                written,
                filename=upload.filename or "file",
                purpose=purpose,
                now=now,
                expires_at=None if lives_s is None else now + lives_s,
                file_id=file_id,
            )
        finally:
            await form.close()
        return JSONResponse(file.shown(), headers=limits_of(request))


@router.get("")
async def list_files(
    request: Request,
    after: str | None = None,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 10_000,
    order: Literal["asc", "desc"] = "desc",
    purpose: str | None = None,
) -> Response:
    """Give the tenant's files, newest first unless asked otherwise."""
    async with asked(request) as (services, principal):
        files, has_more = await services.files.page(
            principal.tenant,
            after=after,
            limit=limit,
            newest_first=order == "desc",
            purpose=purpose,
        )
        return listed([each.shown() for each in files], has_more=has_more)


@router.get("/{file_id}")
async def retrieve_file(request: Request, file_id: str) -> Response:
    """Describe a file."""
    async with asked(request) as (services, principal):
        return JSONResponse((await _find(services, principal.tenant, file_id)).shown())


@router.delete("/{file_id}")
async def delete_file(request: Request, file_id: str) -> Response:
    """Forget a file."""
    async with asked(request) as (services, principal):
        file = await _find(services, principal.tenant, file_id)
        await services.files.remove(file)
        return JSONResponse({"id": file.id, "object": "file", "deleted": True})


@router.get("/{file_id}/content")
async def download_file(request: Request, file_id: str) -> Response:
    """Give a file's bytes."""
    async with asked(request) as (services, principal):
        file = await _find(services, principal.tenant, file_id)
        try:
            size = await services.artifacts.size(file.artifact)
        except NoArtifact:
            raise NotFound("The file's content is gone.", param="file_id") from None
        return StreamingResponse(
            services.artifacts.read(file.artifact),
            headers={"content-length": str(size), "x-content-type-options": "nosniff"},
            media_type="application/octet-stream",
        )


def expiry_s(value: Any, param: str) -> float | None:
    """Read `{anchor: created_at, seconds}`; None where nothing was given. Raises InvalidRequest."""
    if value in (None, "", {}):
        return None
    try:
        seconds = int(value["seconds"])
        anchor = value["anchor"]
    except (TypeError, KeyError, ValueError):
        seconds, anchor = 0, None
    if anchor != "created_at" or not LEAST_EXPIRY_S <= seconds <= MOST_EXPIRY_S:
        raise InvalidRequest(
            f"Invalid '{param}': anchor 'created_at' and seconds from {LEAST_EXPIRY_S} to"
            f" {MOST_EXPIRY_S}.",
            param=param,
        )
    return float(seconds)


async def _find(services: Services, tenant: str, file_id: str) -> StoredFile:
    if not plausible(file_id.replace("-", "_")):
        raise NotFound(f"No such File object: {file_id[:100]}", param="id")
    return await services.files.find(tenant, file_id)


async def _copy(services: Services, upload: UploadFile, name: str) -> Written:
    draft = services.artifacts.draft(name)
    try:
        while piece := await upload.read(PIECE_BYTES):
            await draft.write(piece)
        return await draft.commit()
    finally:
        await draft.abandon()
