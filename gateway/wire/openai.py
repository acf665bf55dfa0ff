"""What may a caller send? The parts of OpenAI's requests that the gateway reads or checks.

Structs of msgspec: decoding checks the types of the named fields and skips all others without
building them, so whatever else an engine understands passes through untouched. The same structs
give the schemas of the OpenAPI document. Fields typed `Raw` are looked at, but never built.
"""

import re
from operator import attrgetter
from typing import Annotated, Literal, TypeVar

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from gateway.errors import InvalidRequest
from gateway.wire.body import UNREADABLE

Penalty = Annotated[float, Meta(ge=-2, le=2)]
Temperature = Annotated[float, Meta(ge=0, le=2)]
Fraction = Annotated[float, Meta(ge=0, le=1)]
Count = Annotated[int, Meta(ge=0, le=2**31)]
Tokens = Annotated[int, Meta(ge=1, le=2**31)]
Bias = Annotated[float, Meta(ge=-100, le=100)]
Key64 = Annotated[str, Meta(max_length=64)]
Text512 = Annotated[str, Meta(max_length=512)]
Metadata = Annotated[dict[Key64, Text512], Meta(max_length=16)]
Stops = str | Annotated[list[str], Meta(max_length=4)]
Name = Annotated[str, Meta(min_length=1, max_length=256)]


class StreamOptions(Struct):
    """How a stream is told."""

    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None


class FunctionCall(Struct):
    """What a model called, in a message of the past."""

    name: str | None = None
    arguments: str | None = None


class ToolCall(Struct):
    """One call of a tool, in a message of the past."""

    id: str | None = None
    type: str | None = None
    function: FunctionCall | None = None


class ContentPart(Struct):
    """A part of a message's content; what the type brings with it is the engine's to check."""

    type: str
    text: str | None = None


class Message(Struct):
    """One message of a conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[ContentPart] | None = None
    name: str | None = None
    tool_call_id: str | None = None
    tool_calls: list[ToolCall] | None = None


class Function(Struct):
    """A function that the model may call."""

    name: Annotated[str, Meta(min_length=1, max_length=128)]
    description: str | None = None
    parameters: dict[str, Raw] | bool | None = None
    strict: bool | None = None


class Tool(Struct):
    """A tool that the model may use."""

    type: str
    function: Function | None = None


class NamedFunction(Struct):
    """The function that a model has to call."""

    name: str


class AllowedTools(Struct):
    """Which of the tools the model may use, and whether it has to use one."""

    mode: Literal["auto", "required"]
    tools: list["ToolChoice"]


class ToolChoice(Struct):
    """A tool that the model has to use, or some of which it may use."""

    type: str
    function: NamedFunction | None = None
    allowed_tools: AllowedTools | None = None


class JsonSchema(Struct, rename={"schema_": "schema"}):
    """The shape that an answer must have."""

    name: str
    schema_: dict[str, Raw] | bool | None = None
    strict: bool | None = None
    description: str | None = None


class ResponseFormat(Struct):
    """The form that an answer must have."""

    type: str
    json_schema: JsonSchema | None = None


class Private(Struct, kw_only=True):
    """Fields by which an engine is steered: ours to set, dropped when a caller sends them.

    The list is SGLang 0.5.23's (`backends.sglang.PRIVATE_FIELDS`); Raw, so that nothing is built.
    """

    rid: Raw | UnsetType = UNSET
    priority: Raw | UnsetType = UNSET
    extra_key: Raw | UnsetType = UNSET
    cache_salt: Raw | UnsetType = UNSET
    session_id: Raw | UnsetType = UNSET
    session_params: Raw | UnsetType = UNSET
    lora_path: Raw | UnsetType = UNSET
    routed_dp_rank: Raw | UnsetType = UNSET
    data_parallel_rank: Raw | UnsetType = UNSET
    disagg_prefill_dp_rank: Raw | UnsetType = UNSET
    bootstrap_host: Raw | UnsetType = UNSET
    bootstrap_port: Raw | UnsetType = UNSET
    bootstrap_room: Raw | UnsetType = UNSET
    custom_logit_processor: Raw | UnsetType = UNSET
    return_hidden_states: Raw | UnsetType = UNSET
    input_ids: Raw | UnsetType = UNSET

    def named(self) -> frozenset[str]:
        """Give the private fields that the caller has sent."""
        values = _private(self)
        if values == _NONE_SENT:  # one comparison in C for what nearly nobody does
            return frozenset()
        names = Private.__struct_fields__
        return frozenset(n for n, v in zip(names, values, strict=True) if v is not UNSET)


_private = attrgetter(*Private.__struct_fields__)
_NONE_SENT = (UNSET,) * len(Private.__struct_fields__)


class Generation(Private, kw_only=True):
    """What chat and text completions share."""

    model: Name
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Annotated[int, Meta(ge=1, le=128)] | None = None
    temperature: Temperature | None = None
    top_p: Fraction | None = None
    max_tokens: Count | None = None
    frequency_penalty: Penalty | None = None
    presence_penalty: Penalty | None = None
    logit_bias: dict[str, Bias] | None = None
    seed: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | None = None
    stop: Stops | None = None
    user: str | None = None
    metadata: Metadata | None = None
    service_tier: str | None = None


class ChatRequest(Generation, kw_only=True):
    """Body of `POST /v1/chat/completions`."""

    messages: Annotated[list[Message], Meta(min_length=1)]
    max_completion_tokens: Count | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    response_format: ResponseFormat | None = None
    tools: list[Tool] | None = None
    tool_choice: Literal["none", "auto", "required"] | ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    reasoning_effort: str | None = None
    modalities: list[str] | None = None
    store: bool | None = None
    audio: Raw | UnsetType = UNSET
    web_search_options: Raw | UnsetType = UNSET
    functions: Raw | UnsetType = UNSET


class CompletionRequest(Generation, kw_only=True):
    """Body of `POST /v1/completions`."""

    prompt: str | list[str | int | list[int]] | None
    best_of: Annotated[int, Meta(ge=0, le=20)] | None = None
    echo: bool | None = None
    logprobs: Annotated[int, Meta(ge=0, le=5)] | None = None
    suffix: str | None = None


class EmbeddingsRequest(Private, kw_only=True):
    """Body of `POST /v1/embeddings`."""

    model: Name
    input: Raw
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, Meta(ge=1)] | None = None
    user: str | None = None
    service_tier: str | None = None


class ModelOnly(Private, kw_only=True):
    """Body of a route that is passed on as it is: only the model is read."""

    model: Name
    stream: bool | None = None


S = TypeVar("S", bound=Struct)

_AT = re.compile(r" - at `(?P<path>[^`]*)`$")
_MISSING = re.compile(r"Object missing required field `(?P<name>[^`]+)`")
_TYPES = re.compile(r"^Expected `(?P<wanted>[^`]+)`, got `(?P<found>[^`]+)`")
_PAIR = re.compile(rb"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}")
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F][0-9a-fA-F]{2}")
_SPOKEN = {
    "str": "a string",
    "int": "an integer",
    "float": "a number",
    "bool": "a boolean",
    "array": "an array",
    "object": "an object",
    "null": "null",
}


def decode(body: bytes, kind: type[S]) -> S:
    """Read and check a body. Raises InvalidRequest that names the field in `param`."""
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        raise _explain(str(error)) from None
    except UNREADABLE as error:
        why = _plain(str(error))
        if not body:
            why = "it is empty"
        if body.startswith(b"\xef\xbb\xbf"):
            why = "it begins with a byte order mark"
        if _has_half_a_pair(body):  # which msgspec may take for the end of the data
            why = "it has one half of a surrogate pair without the other (text cut in an emoji?)"
        raise InvalidRequest(f"The body is not valid JSON: {why}.", code="invalid_json") from None


def _has_half_a_pair(body: bytes) -> bool:
    return _SURROGATE.search(_PAIR.sub(b"", body.replace(b"\\\\", b""))) is not None


def _explain(text: str) -> InvalidRequest:
    at = _AT.search(text)
    path = at["path"].removeprefix("$").removeprefix(".") if at else ""
    said = text[: at.start()] if at else text
    if missing := _MISSING.search(said):
        param = f"{path}.{missing['name']}" if path else missing["name"]
        return InvalidRequest(
            f"Missing required parameter: '{param}'.",
            param=param,
            code="missing_required_parameter",
        )
    if not path:
        found = _TYPES.match(said)
        what = _SPOKEN.get(found["found"], found["found"]) if found else "something else"
        return InvalidRequest(
            f"The body must be a JSON object, but it is {what}.", code="invalid_type"
        )
    param = path.replace("[...]", "[]")
    if types := _TYPES.match(said):
        wanted = " or ".join(_SPOKEN.get(w.strip(), w) for w in types["wanted"].split("|"))
        found_type = _SPOKEN.get(types["found"], types["found"])
        return InvalidRequest(
            f"Invalid type for '{param}': expected {wanted}, but got {found_type} instead.",
            param=param,
            code="invalid_type",
        )
    return InvalidRequest(f"Invalid value for '{param}': {_plain(said)}.", param=param)


def _plain(text: str) -> str:
    return text.replace("`", "'").strip().rstrip(".")[:300]
