"""How are documents ranked, in the form that the clients of Jina's and Cohere's API read?

SGLang 0.5.23 takes nearly their request and answers a bare list of `{"score", "document", "index",
"meta_info"}`, which none of their clients reads (V1RerankReqInput and RerankResponse in its
srt/entrypoints/openai/protocol.py).
"""

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec
import orjson
from msgspec import Meta, Raw

from gateway.call import Usage
from gateway.errors import EngineFailed, GatewayError, InvalidRequest
from gateway.wire.body import Body, fields_of
from gateway.wire.dialect import EngineSaidNo, StreamEditor
from gateway.wire.dialects import Answer, openai_refusal
from gateway.wire.openai import Name, Private, decode
from gateway.wire.sse import VerbatimStream

Text = str | list[dict[str, Any]]


class RerankRequest(Private, kw_only=True):
    """Body of `POST /v1/rerank` and `/v2/rerank`.

    A document is a text, an object with a `text`, or parts of content for a model that sees.
    """

    model: Name
    query: Text
    documents: Annotated[list[str | dict[str, Any] | list[Any]], Meta(min_length=1)]
    top_n: Annotated[int, Meta(ge=1)] | None = None
    return_documents: bool | None = None
    rank_fields: list[str] | None = None


def read_rerank(raw: bytes) -> tuple[RerankRequest, Body]:
    """Give the request and the engine's body. Raises InvalidRequest that names the field."""
    request = decode(raw, RerankRequest)
    if request.rank_fields not in (None, ["text"]):
        raise InvalidRequest("Documents are ranked by their 'text' only.", param="rank_fields")
    drop = request.named() | {"rank_fields"}
    if request.return_documents is None:
        drop |= {"return_documents"}  # SGLang takes no null here
    fields = {name: value for name, value in fields_of(raw).items() if name not in drop}
    if any(isinstance(each, dict) for each in request.documents):
        texts = [_text(each, f"documents[{i}]") for i, each in enumerate(request.documents)]
        fields["documents"] = Raw(msgspec.json.encode(texts))
    return request, Body(msgspec.json.encode(fields))


def _text(document: str | dict[str, Any] | list[Any], at: str) -> str | list[Any]:
    if not isinstance(document, dict):
        return document
    text = document.get("text")
    if not isinstance(text, str):
        raise InvalidRequest(f"'{at}' has no 'text'.", param=f"{at}.text")
    return text


@dataclass(frozen=True, slots=True)
class RerankDialect:
    """Ranks in `results`, the best first; `model` as the caller named it."""

    model: str

    def editor(self) -> StreamEditor:
        """Ranks do not stream."""
        return VerbatimStream()

    async def document(self, body: bytes) -> Answer:
        """Give the engine's list in the form of Jina and Cohere."""
        try:
            ranked = orjson.loads(body)
            results = [_result(each) for each in ranked]
            tokens = [each["meta_info"]["prompt_tokens"] for each in ranked if _is_counted(each)]
        except (orjson.JSONDecodeError, KeyError, TypeError) as error:
            raise EngineSaidNo(EngineFailed("The engine's answer could not be read.")) from error
        told: dict[str, Any] = {
            "id": f"rerank-{uuid.uuid4().hex}",
            "object": "list",
            "model": self.model,
            "results": results,
            "meta": {"billed_units": {"search_units": 1}},
        }
        if not tokens:
            return orjson.dumps(told), None, ()
        count = sum(tokens)
        told["usage"] = {"prompt_tokens": count, "total_tokens": count}
        told["meta"]["tokens"] = {"input_tokens": count, "output_tokens": 0}
        return orjson.dumps(told), Usage(prompt_tokens=count), ()

    def refusal(self, error: GatewayError) -> tuple[bytes, Mapping[str, str]]:
        """Give an error in OpenAI's envelope."""
        return openai_refusal(error)


def _result(ranked: dict[str, Any]) -> dict[str, Any]:
    result = {"index": ranked["index"], "relevance_score": ranked["score"]}
    document = ranked.get("document")
    if document is not None:
        result["document"] = {"text": document} if isinstance(document, str) else document
    return result


def _is_counted(ranked: dict[str, Any]) -> bool:
    meta = ranked.get("meta_info")
    return isinstance(meta, dict) and isinstance(meta.get("prompt_tokens"), int)
