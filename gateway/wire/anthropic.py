"""How are Anthropic's messages worded: the engine's bytes, and errors in Anthropic's envelope?

Bodies go on as they are, too, but for tools that the model has to use.
"""

from collections.abc import Mapping
from typing import Any

import msgspec
import orjson
from msgspec import Raw

from backends.sglang import error_of
from gateway.errors import ContextLengthExceeded, EngineFailed, GatewayError, headers
from gateway.wire.body import UNREADABLE, Body, fields_of
from gateway.wire.dialect import EngineSaidNo, StreamEditor
from gateway.wire.dialects import VerbatimDialect
from gateway.wire.errors import translate
from gateway.wire.overflow import read_overflow
from gateway.wire.schemas import has_references, refuse_endless
from gateway.wire.sse import Frames, VerbatimStream, data_of, split
from gateway.wire.usage import usage_of

NULL = Raw(b"null")
_GREETINGS = ("message_start", "ping")
# In what else a stream carries after its greeting there is nothing to learn.
_MARKS = (b"event: error", b'{"type":"error"', b'"usage"', b"message_stop", b"[DONE]")


def anthropic_refusal(error: GatewayError) -> tuple[bytes, Mapping[str, str]]:
    """Give an error in Anthropic's envelope."""
    return orjson.dumps(_envelope(error)), headers(error)


def with_strict_tools(body: Body) -> Body:
    """Ask for a forced tool's arguments in its schema, unless the caller said something of that.

    Without it SGLang constrains only the tool's name, and `input` may be no object at all.
    Raises InvalidRequest for a schema that would kill an engine.
    """
    try:
        fields = fields_of(body.raw)
        _check_schemas(fields)
        if "tool_choice" not in fields:
            return body
        choice = msgspec.json.decode(fields.get("tool_choice", NULL))
        tools = msgspec.json.decode(fields.get("tools", NULL))
    except UNREADABLE:
        return body  # the engine's to refuse
    is_forced = isinstance(choice, dict) and choice.get("type") in ("any", "tool")
    if not is_forced or not isinstance(tools, list):
        return body
    for tool in tools:
        if isinstance(tool, dict) and "input_schema" in tool:
            tool.setdefault("strict", True)
    fields["tools"] = Raw(msgspec.json.encode(tools))
    return Body(msgspec.json.encode(fields), body.ours)


def _check_schemas(fields: Mapping[str, Raw]) -> None:
    for name, inner in (("tools", "input_schema"), ("output_config", "format")):
        raw = bytes(fields.get(name, NULL))
        if has_references(raw):
            given = msgspec.json.decode(raw)
            for each in given if isinstance(given, list) else [given]:
                schema = each.get(inner) if isinstance(each, dict) else None
                if name == "output_config" and isinstance(schema, dict):
                    schema = schema.get("schema")
                refuse_endless(schema, f"{name}.{inner}")


class AnthropicDialect(VerbatimDialect):
    """`/v1/messages`: the engine's bytes, errors in Anthropic's envelope."""

    __slots__ = ()

    def editor(self) -> StreamEditor:
        """Make an editor for one stream."""
        return AnthropicStream()

    def refusal(self, error: GatewayError) -> tuple[bytes, Mapping[str, str]]:
        """Give an error in Anthropic's envelope."""
        return anthropic_refusal(error)


class AnthropicStream(VerbatimStream):
    """The editor of a stream of messages: every byte goes on, but for errors.

    SGLang 0.5.23 greets (`message_start`) before it refuses, so a stream has started only with what
    comes after that.
    """

    def __init__(self) -> None:
        super().__init__(_error_frame)
        self._frames = Frames()

    def feed(self, data: bytes) -> bytes:
        """Take bytes of the engine, give whole frames for the caller."""
        block = self._frames.feed(data)
        if not block or self.ended:
            return b""
        if not self.started or any(mark in block for mark in _MARKS):
            for frame in split(block):
                self._read(data_of(frame))
        return block

    def _read(self, data: bytes) -> None:
        if data.startswith(b"[DONE]"):
            self.started = self.ended = True
            return
        if not data:
            return  # a comment
        try:
            event = orjson.loads(data)
        except orjson.JSONDecodeError:
            event = None
        if not isinstance(event, dict):
            raise EngineSaidNo(EngineFailed("The engine's answer could not be read."))
        if event.get("error"):
            raise EngineSaidNo(translate(error_of(500, data)))
        kind = event.get("type")
        self.started = self.started or kind not in _GREETINGS
        self.ended = self.ended or kind == "message_stop"
        inner = event.get("message")
        found = event.get("usage") or (inner.get("usage") if isinstance(inner, dict) else None)
        self.usage = usage_of(found) or self.usage


_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


def _envelope(error: GatewayError) -> dict[str, Any]:
    is_theirs = 400 <= error.status < 500
    kind = _TYPES.get(error.status, "invalid_request_error" if is_theirs else "api_error")
    message = error.message
    if isinstance(error, ContextLengthExceeded) and (overflow := read_overflow(message)):
        message = overflow.in_anthropics_words()
    if error.param is not None and error.param not in message:  # there is no other place for it
        message = f"{error.param}: {message}"
    return {"type": "error", "error": {"type": kind, "message": message}}


def _error_frame(error: GatewayError) -> bytes:
    return b"event: error\ndata: " + orjson.dumps(_envelope(error)) + b"\n\n"
