"""`POST /v1/chat/completions` and `POST /v1/completions`."""

from typing import Any

import msgspec
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from gateway.api.calls import CallAnswer
from gateway.api.document import described
from gateway.api.drafts import Asker, Draft, Surface
from gateway.call import Operation
from gateway.errors import InvalidRequest
from gateway.wire.body import Body, fields_of
from gateway.wire.chat import Offer, offer_of, refuse_unserved
from gateway.wire.dialect import Dialect
from gateway.wire.dialects import OpenAIDialect
from gateway.wire.openai import (
    ChatRequest,
    CompletionRequest,
    Generation,
    decode,
)

CHAT_PATH = "/v1/chat/completions"
COMPLETIONS_PATH = "/v1/completions"

router = APIRouter()


@router.post(CHAT_PATH, openapi_extra=described(ChatRequest, streams=True), tags=["inference"])
async def create_chat_completion(request: Request) -> Response:
    """Answer a conversation, at once or as a stream of chunks."""
    return CallAnswer(request, CHAT)


@router.post(
    COMPLETIONS_PATH, openapi_extra=described(CompletionRequest, streams=True), tags=["inference"]
)
async def create_completion(request: Request) -> Response:
    """Continue a text, at once or as a stream of chunks."""
    return CallAnswer(request, COMPLETIONS)


async def read_chat(raw: bytes, asker: Asker) -> Draft:
    """Read the body of a chat completion."""
    request = decode(raw, ChatRequest)
    refuse_unserved(request)
    offer = offer_of(request) if request.tools or request.tool_choice else None
    return _draft(
        raw,
        request,
        asker,
        operation=Operation.CHAT,
        path=CHAT_PATH,
        tools=bool(request.tools),
        offer=offer,
    )


async def read_completion(raw: bytes, asker: Asker) -> Draft:
    """Read the body of a text completion."""
    request = decode(raw, CompletionRequest)
    if request.prompt is None:
        raise InvalidRequest(
            "Missing required parameter: 'prompt'.",
            param="prompt",
            code="missing_required_parameter",
        )
    return _draft(raw, request, asker, operation=Operation.TEXT_COMPLETION, path=COMPLETIONS_PATH)


def _draft(
    raw: bytes,
    request: Generation,
    asker: Asker,
    *,
    operation: Operation,
    path: str,
    tools: bool = False,
    offer: Offer | None = None,
) -> Draft:
    options = request.stream_options
    wants_usage = bool(options and options.include_usage)
    shown_model = asker.shown_model(request.model)

    def dialect(tier: str | None) -> Dialect:
        return OpenAIDialect(
            wants_usage=wants_usage, tools=tools, shown_model=shown_model, tier=tier
        )

    return Draft(
        operation=operation,
        path=path,
        model=request.model,
        body=_engine_body(raw, request, None if offer is None or offer.is_plain else offer),
        dialect=dialect,
        stream=bool(request.stream),
        tier=request.service_tier,
        attributes=_attributes(request),
    )


def _engine_body(raw: bytes, request: Generation, offer: Offer | None) -> Body:
    """Give the caller's bytes with our fields in front; rebuilt only where one of them is there.

    Usage is always asked for: receipts and promises are counted from it.
    """
    drop = request.named()
    ours: dict[str, Any] = {}
    if request.stream_options is not None:
        drop |= {"stream_options"}
    if request.stream:
        ours["stream_options"] = {"include_usage": True}
        if request.stream_options and request.stream_options.continuous_usage_stats:
            ours["stream_options"]["continuous_usage_stats"] = True
    if not drop and offer is None:
        return Body(raw, ours)
    fields = {k: v for k, v in fields_of(raw).items() if k not in drop}
    if offer is not None:
        fields = offer.told(fields)
    return Body(msgspec.json.encode(fields), ours)


def _attributes(request: Generation) -> dict[str, str | int | float | bool]:
    limit = request.max_tokens
    if isinstance(request, ChatRequest) and request.max_completion_tokens is not None:
        limit = request.max_completion_tokens
    named = {
        "gen_ai.request.max_tokens": limit,
        "gen_ai.request.temperature": request.temperature,
        "gen_ai.request.top_p": request.top_p,
        "gen_ai.request.choice.count": request.n,
        "gen_ai.request.seed": request.seed,
        "openai.request.service_tier": request.service_tier,
    }
    return {k: v for k, v in named.items() if v is not None}


CHAT = Surface(read_chat)
COMPLETIONS = Surface(read_completion)
AHEAD = {CHAT_PATH: CHAT, COMPLETIONS_PATH: COMPLETIONS}
