"""Where do callers create, read, stop and forget responses?

A tenant sees its own responses only: any other id is not found. `/v1/responses/compact` and
conversations are not served.
"""

from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from gateway.api.calls import CallAnswer
from gateway.api.document import described
from gateway.api.drafts import Asker, Draft, Surface
from gateway.api.intake import identify
from gateway.api.responses_create import Desk
from gateway.api.responses_follow import follow
from gateway.errors import GatewayError, InvalidRequest, NotFound, UnknownUrl
from gateway.responses_background import ResponseRuns, settled
from gateway.responses_record import Stored, away
from gateway.responses_store import TooLarge
from gateway.services import Services
from gateway.wire.responses.document import cancelled
from gateway.wire.responses.request import CountTokens, CreateResponse

NO_CACHE = {"cache-control": "no-cache", "x-accel-buffering": "no"}

router = APIRouter(prefix="/v1/responses", tags=["responses"])


@router.post("", openapi_extra=described(CreateResponse, streams=True))
async def create(request: Request) -> Response:
    """Create a response: at once, as a stream of events, or in the background."""
    return CallAnswer(request, Surface(_read))


@router.post("/input_tokens", openapi_extra=described(CountTokens))
async def count(request: Request) -> Response:
    """Count the tokens that a request would put in."""
    return CallAnswer(request, Surface(_read_count))


@router.post("/compact", include_in_schema=False)
async def compact(request: Request) -> Response:
    """Say that there is no such route: its name would else be taken for the id of a response."""
    raise UnknownUrl(request.method, request.url.path)


@router.get("/{response_id}")
async def retrieve(
    request: Request,
    response_id: str,
    stream: bool = False,
    starting_after: Annotated[int, Query(ge=-1)] = -1,
) -> Response:
    """Give a stored response, or the events of one that runs in the background."""
    runs, tenant = await _asked(request)
    found = await _find(runs, tenant, response_id)
    if not stream:
        return JSONResponse(found.document)
    if await runs.store.events(tenant, response_id, -1) is None:
        raise InvalidRequest(
            "Only a background response that was created with 'stream' can be streamed.",
            param="stream",
        )
    frames = follow(runs.store, runs.clock, tenant, response_id, after=starting_after)
    return StreamingResponse(_until_away(frames), media_type="text/event-stream", headers=NO_CACHE)


@router.delete("/{response_id}")
async def delete(request: Request, response_id: str) -> Response:
    """Forget a response; one that runs is stopped."""
    runs, tenant = await _asked(request)
    if not await runs.store.delete(tenant, response_id):
        raise _not_found(response_id)
    runs.cancel(tenant, response_id)
    return JSONResponse({"id": response_id, "object": "response", "deleted": True})


@router.post("/{response_id}/cancel")
async def cancel(request: Request, response_id: str) -> Response:
    """Stop a background response; one that has ended is given as it is."""
    runs, tenant = await _asked(request)
    found = await _find(runs, tenant, response_id)
    if not found.document["background"]:
        raise InvalidRequest("Cannot cancel a synchronous response.", param="response_id")
    if found.has_ended:
        return JSONResponse(found.document)
    try:
        await runs.store.advance(tenant, cancelled(found.document))
    except TooLarge:
        raise away() from None
    runs.cancel(tenant, response_id)
    return JSONResponse((await _find(runs, tenant, response_id)).document)


@router.get("/{response_id}/input_items")
async def list_input_items(
    request: Request,
    response_id: str,
    after: str | None = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    order: Literal["asc", "desc"] = "desc",
) -> Response:
    """Give the items that the request of this response brought itself."""
    runs, tenant = await _asked(request)
    found = await _find(runs, tenant, response_id)
    items = found.input if order == "asc" else found.input[::-1]
    return JSONResponse(_page(items, after=after, limit=limit))


async def _read(raw: bytes, asker: Asker) -> Draft:
    return await Desk(asker.services.responses).read(raw, asker)


async def _read_count(raw: bytes, asker: Asker) -> Draft:
    return await Desk(asker.services.responses).read_count(raw, asker)


async def _asked(request: Request) -> tuple[ResponseRuns, str]:
    services: Services = request.app.state.services
    principal = await identify(services, request.headers)
    return services.responses, principal.tenant


async def _find(runs: ResponseRuns, tenant: str, response_id: str) -> Stored:
    found = await settled(runs.store, tenant, response_id, now=runs.clock.now())
    if found is None:
        raise _not_found(response_id)
    return found


def _not_found(response_id: str) -> NotFound:
    return NotFound(f"Response with id '{response_id[:100]}' not found.", param="response_id")


def _page(items: list[dict[str, Any]], *, after: str | None, limit: int) -> dict[str, Any]:
    start = 0
    if after is not None:
        places = [place for place, item in enumerate(items) if item["id"] == after]
        if not places:
            raise InvalidRequest(f"No item with id '{after[:100]}'.", param="after")
        start = places[0] + 1
    page = items[start : start + limit]
    return {
        "object": "list",
        "data": page,
        "first_id": page[0]["id"] if page else None,
        "last_id": page[-1]["id"] if page else None,
        "has_more": start + limit < len(items),
    }


async def _until_away(frames: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Pass frames on; where the store goes away the stream just ends, to be resumed later."""
    try:
        async for frame in frames:
            yield frame
    except GatewayError:
        return
