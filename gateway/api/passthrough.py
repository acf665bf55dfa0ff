"""Routes that are passed on: embeddings, ranking, Anthropic's messages, and SGLang's own."""

from collections.abc import Callable

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from gateway.api.calls import CallAnswer
from gateway.api.document import described
from gateway.api.drafts import Asker, Draft, Read, Surface
from gateway.call import Operation
from gateway.wire.anthropic import AnthropicDialect, anthropic_refusal, with_strict_tools
from gateway.wire.body import Body
from gateway.wire.dialect import Dialect
from gateway.wire.dialects import (
    EmbeddingsDialect,
    VerbatimDialect,
)
from gateway.wire.openai import EmbeddingsRequest, ModelOnly, decode
from gateway.wire.rerank import RerankDialect, RerankRequest, read_rerank

EMBEDDINGS_PATH = "/v1/embeddings"
RERANK_PATH = "/v1/rerank"
# SGLang 0.5.23 answers these on the same paths.
OTHER = {
    "/v1/score": Operation.SCORE,
    "/v1/classify": Operation.CLASSIFY,
    "/v1/tokenize": Operation.TOKENIZE,
    "/v1/detokenize": Operation.DETOKENIZE,
}


async def read_embeddings(raw: bytes, _: Asker) -> Draft:
    """Read the body of an embeddings request."""
    request = decode(raw, EmbeddingsRequest)
    as_base64 = request.encoding_format == "base64"
    is_batch = not bytes(request.input).startswith(b'"')
    return Draft(
        operation=Operation.EMBEDDINGS,
        path=EMBEDDINGS_PATH,
        model=request.model,
        body=_cleaned(raw, request.named()),
        dialect=lambda _: EmbeddingsDialect(as_base64=as_base64, shown_model=request.model),
        tier=request.service_tier,
        takes_rid=not is_batch,  # SGLang 0.5.23 answers 500 to one rid with several inputs
    )


async def read_ranking(raw: bytes, _: Asker) -> Draft:
    """Read the body of a request to rank documents."""
    request, body = read_rerank(raw)
    return Draft(
        operation=Operation.RERANK,
        path=RERANK_PATH,
        model=request.model,
        body=body,
        dialect=lambda _: RerankDialect(request.model),
        takes_rid=False,
    )


def reader(
    path: str,
    operation: Operation,
    dialect: Callable[[], Dialect],
    shape: Callable[[Body], Body] = lambda body: body,
) -> Read:
    """Give the reading of a route of which only the model and the stream flag are looked at.

    `shape` makes the engine's body of the caller's.
    """

    async def read(raw: bytes, asker: Asker) -> Draft:
        request = decode(raw, ModelOnly)
        return Draft(
            operation=operation,
            path=path,
            model=request.model,
            body=shape(_cleaned(raw, request.named())),
            dialect=lambda _: dialect(),
            stream=bool(request.stream),
            takes_rid=False,
        )

    return read


def passthrough_router() -> APIRouter:
    """Make the routes."""
    router = APIRouter(tags=["inference"])
    openai = VerbatimDialect
    _add(router, EMBEDDINGS_PATH, Surface(read_embeddings), described(EmbeddingsRequest))
    for path in (RERANK_PATH, "/v2/rerank"):  # Cohere's clients ask on the second
        _add(router, path, Surface(read_ranking), described(RerankRequest))
    for path, operation in OTHER.items():
        _add(router, path, Surface(reader(path, operation, openai)), described(ModelOnly))
    for path in ("/v1/messages", "/v1/messages/count_tokens"):
        read = reader(path, Operation.CHAT, AnthropicDialect, with_strict_tools)
        surface = Surface(read, anthropic_refusal, id_header=b"request-id")
        streams = path == "/v1/messages"
        extra = described(ModelOnly, streams=streams, errors="AnthropicErrorResponse")
        _add(router, path, surface, extra)
    return router


def _add(router: APIRouter, path: str, surface: Surface, extra: dict[str, object]) -> None:
    async def endpoint(request: Request) -> Response:
        return CallAnswer(request, surface)

    name = path.removeprefix("/v1/").strip("/").replace("/", "_")
    router.add_api_route(
        path, endpoint, methods=["POST"], name=f"create_{name}", openapi_extra=extra,
        operation_id=f"create_{name}", summary=f"{name.replace('_', ' ').capitalize()}.",
    )  # fmt: skip


def _cleaned(raw: bytes, private: frozenset[str]) -> Body:
    return Body(raw).without(private) if private else Body(raw)
