"""How is the body of a job's creation read, as JSON or as a form, without holding it whole?"""

from collections.abc import AsyncIterator, Mapping
from typing import Any

import orjson
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from gateway.api.intake import read_body
from gateway.errors import BodyTooLarge, InvalidRequest, RequestTimeout
from gateway.services import Services

FORM_SLACK_BYTES = 256 * 1024  # a form's other fields and its boundaries
MOST_FIELD_BYTES = 128 * 1024


def is_form(request: Request) -> bool:
    """Whether the body is a form."""
    return request.headers.get("content-type", "").lower().startswith("multipart/form-data")


async def read_document(request: Request, services: Services) -> dict[str, Any]:
    """Read a JSON object within the operator's bounds."""
    raw = await read_body(services, request.headers, request.receive)
    try:
        found = orjson.loads(raw)
    except ValueError:
        raise InvalidRequest("The body is not valid JSON.", code="invalid_json") from None
    if not isinstance(found, dict):
        raise InvalidRequest("The body must be a JSON object.", code="invalid_type")
    return found


async def read_form(request: Request, *, most_bytes: int) -> FormData:
    """Read a form; files above 1 MB wait on disk. The caller closes it.

    Raises BodyTooLarge above `most_bytes` of files.
    """
    limit = most_bytes + FORM_SLACK_BYTES
    too_large = BodyTooLarge(f"Files are limited to {most_bytes} bytes.")
    declared = request.headers.get("content-length", "0")
    if declared.isdecimal() and int(declared) > limit:
        raise too_large

    async def counted() -> AsyncIterator[bytes]:
        size = 0
        async for piece in request.stream():
            size += len(piece)
            if size > limit:
                raise too_large
            yield piece

    pieces = counted()
    parser = MultiPartParser(
        request.headers,
        pieces,  # type: ignore[arg-type] # any async iterator will do
        max_files=2,
        max_fields=100,
        max_part_size=MOST_FIELD_BYTES,
    )
    try:
        return await parser.parse()
    except MultiPartException as error:
        raise InvalidRequest(error.message, code="invalid_form") from None
    except KeyError:
        raise InvalidRequest("The form names no boundary.", code="invalid_form") from None
    except ClientDisconnect:
        raise RequestTimeout("The caller left before its request was complete.") from None


def fields_of(form: FormData) -> tuple[dict[str, Any], dict[str, UploadFile]]:
    """Split a form into texts and files; `a[b]` becomes a mapping, as the SDKs nest values."""
    texts: dict[str, Any] = {}
    uploads: dict[str, UploadFile] = {}
    for name, value in form.multi_items():
        if isinstance(value, UploadFile):
            uploads[name] = value
            continue
        outer, bracket, inner = name.partition("[")
        if bracket and inner.endswith("]"):
            group = texts.setdefault(outer, {})
            if isinstance(group, dict):
                group[inner[:-1]] = value
        else:
            texts[name] = value
    return texts, uploads


def named(fields: Mapping[str, Any], name: str) -> str:
    """Give a required text. Raises InvalidRequest."""
    value = fields.get(name)
    if value is None or value == "":
        raise InvalidRequest(
            f"Missing required parameter: '{name}'.", param=name, code="missing_required_parameter"
        )
    if not isinstance(value, str):
        raise InvalidRequest(f"Invalid '{name}': a text.", param=name, code="invalid_type")
    return value
