"""`POST /v1/chat/completions` and `POST /v1/completions`."""

from typing import Any

import msgspec
from fastapi import APIRouter
from msgspec import Raw
from starlette.requests import Request
from starlette.responses import Response

from gateway.api.calls import CallAnswer
from gateway.api.document import described
from gateway.api.drafts import Asker, Draft, Surface
from gateway.call import Operation
from gateway.errors import InvalidRequest
from gateway.wire.body import Body, fields_of
from gateway.wire.dialect import Dialect
from gateway.wire.dialects import OpenAIDialect
from gateway.wire.openai import (
    ChatRequest,
    CompletionRequest,
    Generation,
    ToolChoice,
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
    if request.audio or "audio" in (request.modalities or ()):
        raise InvalidRequest("Audio is not supported by this server.", param="modalities")
    if request.web_search_options:
        raise InvalidRequest(
            "Web search is not supported by this server.", param="web_search_options"
        )
    is_forced = request.tool_choice == "required" or isinstance(request.tool_choice, ToolChoice)
    return _draft(
        raw,
        request,
        asker,
        operation=Operation.CHAT,
        path=CHAT_PATH,
        tools=bool(request.tools),
        strict_tools=is_forced and bool(request.tools),
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
    strict_tools: bool = False,
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
        body=_engine_body(raw, request, strict_tools=strict_tools),
        dialect=dialect,
        stream=bool(request.stream),
        tier=request.service_tier,
        attributes=_attributes(request),
    )


def _engine_body(raw: bytes, request: Generation, *, strict_tools: bool) -> Body:
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
    if not drop and not strict_tools:
        return Body(raw, ours)
    fields = {k: v for k, v in fields_of(raw).items() if k not in drop}
    if strict_tools:
        fields["tools"] = _strict(fields["tools"])
    return Body(msgspec.json.encode(fields), ours)


def _strict(tools: Raw) -> Raw:
    """Ask for arguments that keep to a forced tool's schema.

    Without it SGLang constrains only the tool's name, and arguments may be anything.
    """
    found = msgspec.json.decode(tools, type=list[dict[str, Any]])
    for tool in found:
        function = tool.get("function")
        if isinstance(function, dict) and function.get("strict") is None:
            function["strict"] = True
    return Raw(msgspec.json.encode(found))


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
