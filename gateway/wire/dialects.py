"""The wordings of answers that need no state: OpenAI's, and none at all."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson
from msgspec import Struct

from gateway.call import Usage
from gateway.errors import EngineBusy, EngineFailed, GatewayError, envelope, headers
from gateway.wire.dialect import EngineSaidNo, StreamEditor
from gateway.wire.mend import document_edit, embeddings_edit, generation_edit, stream_edit
from gateway.wire.sse import OpenAIStream, VerbatimStream, are_choices
from gateway.wire.usage import usage_of

Answer = tuple[bytes, Usage | None, tuple[str, ...]]


def openai_refusal(error: GatewayError) -> tuple[bytes, Mapping[str, str]]:
    """Give an error in OpenAI's envelope."""
    return orjson.dumps(envelope(error)), headers(error)


def read_document(body: bytes) -> dict[str, Any]:
    """Decode an engine's unary answer; raises EngineSaidNo where it is none, or an abort."""
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        document = None
    if not isinstance(document, dict) or not are_choices(document.get("choices")):
        raise EngineSaidNo(EngineFailed("The engine's answer could not be read."))
    for choice in document.get("choices") or ():
        if choice.get("finish_reason") == "abort":
            raise EngineSaidNo(EngineBusy("The engine gave this call up.", retry_after_s=1.0))
    return document


class OpenAIDialect(Struct, frozen=True, gc=False):
    """Chat and text completions.

    `shown_model`: the public name where the engine's differs; `tier`: the served tier where the
    caller named one; `tools`: the answer may hold tool calls.
    """

    wants_usage: bool = False
    tools: bool = False
    shown_model: str | None = None
    tier: str | None = None

    def editor(self) -> StreamEditor:
        """Make an editor for one stream."""
        return OpenAIStream(
            wants_usage=self.wants_usage,
            tier=self.tier,
            edit=stream_edit(tools=self.tools, model=self.shown_model),
        )

    async def document(self, body: bytes) -> Answer:
        """Mend a unary answer."""
        document = read_document(body)
        if not isinstance(document.get("choices"), list):
            raise EngineSaidNo(EngineFailed("The engine's answer holds no choices."))
        reasons = tuple([str(c.get("finish_reason")) for c in document.get("choices") or ()])
        usage = usage_of(document.get("usage"))
        is_ours = self.shown_model is not None or self.tier is not None or "metadata" in document
        if not generation_edit(document) and not is_ours:
            return body, usage, reasons  # there is nothing to mend
        document_edit(document, model=self.shown_model, tier=self.tier)
        return orjson.dumps(document), usage, reasons

    def refusal(self, error: GatewayError) -> tuple[bytes, Mapping[str, str]]:
        """Give an error in OpenAI's envelope."""
        return openai_refusal(error)


@dataclass(frozen=True, slots=True)
class EmbeddingsDialect:
    """Embeddings: never a stream. `shown_model` stands for what SGLang tells: the model's path."""

    as_base64: bool = False
    shown_model: str | None = None

    def editor(self) -> StreamEditor:
        """Embeddings do not stream; an engine that does is passed on as it is."""
        return VerbatimStream()

    async def document(self, body: bytes) -> Answer:
        """Encode the vectors as asked."""
        document = read_document(body)
        document_edit(document, model=self.shown_model, tier=None)
        embeddings_edit(document, as_base64=self.as_base64)
        return orjson.dumps(document), usage_of(document.get("usage")), ()

    def refusal(self, error: GatewayError) -> tuple[bytes, Mapping[str, str]]:
        """Give an error in OpenAI's envelope."""
        return openai_refusal(error)


@dataclass(frozen=True, slots=True)
class VerbatimDialect:
    """Routes that are passed on: the engine's bytes are the answer."""

    def editor(self) -> StreamEditor:
        """Make an editor for one stream."""
        return VerbatimStream()

    async def document(self, body: bytes) -> Answer:
        """Give the engine's own bytes."""
        try:
            document = orjson.loads(body)
        except orjson.JSONDecodeError:
            raise EngineSaidNo(EngineFailed("The engine's answer could not be read.")) from None
        found = document.get("usage") if isinstance(document, dict) else None
        return body, usage_of(found), ()

    def refusal(self, error: GatewayError) -> tuple[bytes, Mapping[str, str]]:
        """Give an error in OpenAI's envelope."""
        return openai_refusal(error)
