"""What may a caller ask of `POST /v1/responses`?

Fields that would change the meaning and cannot be honoured are refused with their name; hints that
cannot be honoured (`truncation: auto`, `text.verbosity`, cache hints) are taken and echoed. Fields
that SGLang's chat API adds to OpenAI's are passed on (sglang 0.5.23,
srt/entrypoints/openai/protocol.py).
"""

from typing import Annotated, Any, Literal

import orjson
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from gateway.errors import InvalidRequest
from gateway.wire.openai import (
    Fraction,
    Metadata,
    Name,
    Penalty,
    Stops,
    Temperature,
    Tokens,
    decode,
)
from gateway.wire.responses.fields import missing, wrong_value
from gateway.wire.schemas import refuse_endless

INCLUDABLE = (
    "message.output_text.logprobs",
    "reasoning.encrypted_content",
    "message.input_image.image_url",
    "file_search_call.results",
    "web_search_call.results",
    "web_search_call.action.sources",
    "computer_call_output.output.image_url",
    "code_interpreter_call.outputs",
)
LOGPROBS = "message.output_text.logprobs"

_ITEMS = "send the items in 'input' or name a 'previous_response_id'"
# What is refused, with what serves instead: two fields of this API, and the words of chat, which
# would be dropped without a word where a caller confuses the two.
UNSERVED = {
    "conversation": _ITEMS,
    "prompt": _ITEMS,
    "messages": "send the items in 'input'",
    "max_tokens": "it is 'max_output_tokens' in this API",
    "max_completion_tokens": "it is 'max_output_tokens' in this API",
    "response_format": "it is 'text.format' in this API",
    "reasoning_effort": "it is 'reasoning.effort' in this API",
    "functions": "give them as 'tools'",
    "n": "a response has one answer",
    "logprobs": "name 'message.output_text.logprobs' in 'include'",
}
_NO_MATTER = {"n": (b"1",), "logprobs": (b"false",), "functions": (b"[]",)}

Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]
Short = Annotated[str, Meta(max_length=512)]


class Reasoning(Struct):
    """How much a model thinks before it answers."""

    effort: Effort | None = None
    summary: Literal["auto", "concise", "detailed"] | None = None
    generate_summary: Literal["auto", "concise", "detailed"] | None = None


class TextConfig(Struct):
    """The form of the answer's text."""

    format: dict[str, Any] | None = None
    verbosity: Literal["low", "medium", "high"] | None = None


class BackgroundOptions(Struct):
    """How soon a background response is wanted."""

    completion_window: Literal["soonest", "2h", "8h"] | None = None


class ResponseStreamOptions(Struct):
    """How a stream is told; no obfuscation is ever added here."""

    include_obfuscation: bool | None = None


class Extras(Struct, kw_only=True):
    """Sampling fields of the engine's that go through as they came."""

    seed: int | UnsetType | None = UNSET
    stop: Stops | UnsetType | None = UNSET
    logit_bias: dict[str, float] | UnsetType | None = UNSET
    top_k: int | UnsetType | None = UNSET
    min_p: Fraction | UnsetType | None = UNSET
    min_tokens: int | UnsetType | None = UNSET
    repetition_penalty: float | UnsetType | None = UNSET
    stop_token_ids: list[int] | UnsetType | None = UNSET
    ignore_eos: bool | UnsetType | None = UNSET
    skip_special_tokens: bool | UnsetType | None = UNSET
    regex: str | UnsetType | None = UNSET
    ebnf: str | UnsetType | None = UNSET
    chat_template_kwargs: dict[str, Any] | UnsetType | None = UNSET

    def given(self) -> dict[str, Any]:
        """Give the fields that were sent with a value."""
        found = {name: getattr(self, name) for name in Extras.__struct_fields__}
        return {name: value for name, value in found.items() if value not in (UNSET, None)}


class CreateResponse(Extras, kw_only=True):
    """Body of `POST /v1/responses`; fields that are not named here are hints and are dropped."""

    model: Name
    input: str | list[dict[str, Any]] | None = None
    instructions: str | None = None
    previous_response_id: str | None = None
    include: list[str] | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    max_tool_calls: Tokens | None = None
    max_output_tokens: Tokens | None = None
    temperature: Temperature | None = None
    top_p: Fraction | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    text: TextConfig | None = None
    reasoning: Reasoning | None = None
    metadata: Metadata | None = None
    service_tier: str | None = None
    truncation: Literal["auto", "disabled"] | None = None
    store: bool | None = None
    background: bool | None = None
    background_options: BackgroundOptions | None = None
    stream: bool | None = None
    stream_options: ResponseStreamOptions | None = None
    user: str | None = None
    safety_identifier: Short | None = None
    prompt_cache_key: Short | None = None
    # Read to be refused, see UNSERVED.
    conversation: Raw | UnsetType = UNSET
    prompt: Raw | UnsetType = UNSET
    messages: Raw | UnsetType = UNSET
    max_tokens: Raw | UnsetType = UNSET
    max_completion_tokens: Raw | UnsetType = UNSET
    response_format: Raw | UnsetType = UNSET
    reasoning_effort: Raw | UnsetType = UNSET
    functions: Raw | UnsetType = UNSET
    n: Raw | UnsetType = UNSET
    logprobs: Raw | UnsetType = UNSET

    @property
    def stores(self) -> bool:
        """Whether the answer is to be kept: yes, unless the caller says no."""
        return self.store is not False

    @property
    def tier(self) -> str | None:
        """The tier that is asked for, in the names that every surface shares.

        `ultrafast` exists here alone and is served as `priority`; a background response that may
        take hours is served as `flex`.
        """
        if self.service_tier == "ultrafast":
            return "priority"
        options = self.background_options
        if self.service_tier in (None, "auto") and self.background and options is not None:
            return "flex" if options.completion_window in ("2h", "8h") else self.service_tier
        return self.service_tier

    @property
    def wants_logprobs(self) -> bool:
        """Whether the caller asked for log probabilities."""
        return LOGPROBS in (self.include or ())


class CountTokens(Struct, kw_only=True):
    """Body of `POST /v1/responses/input_tokens`."""

    model: Name
    input: str | list[dict[str, Any]] | None = None
    instructions: str | None = None
    previous_response_id: str | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None


def parse(body: bytes) -> CreateResponse:
    """Read and check a request. Raises InvalidRequest, its `param` naming the field."""
    request = decode(body, CreateResponse)
    _check_free_fields(request)
    for name, instead in UNSERVED.items():
        given = getattr(request, name)
        if given not in (UNSET, Raw(b"null")) and bytes(given) not in _NO_MATTER.get(name, ()):
            raise InvalidRequest(
                f"Unsupported parameter: '{name}' is not served here; {instead}.",
                param=name,
                code="unsupported_parameter",
            )
    for index, each in enumerate(request.include or ()):
        if each not in INCLUDABLE:
            raise wrong_value(f"include[{index}]", each, INCLUDABLE)
    if not request.input and request.previous_response_id is None:
        if request.input == "":
            raise InvalidRequest("'input' must not be empty.", param="input")
        raise missing("input")
    if request.background and not request.stores:
        raise InvalidRequest(
            "A background response has to be stored: leave 'store' out or set it to true.",
            param="store",
        )
    return request


def parse_count(body: bytes) -> CountTokens:
    """Read and check a request to count tokens."""
    request = decode(body, CountTokens)
    _check_free_fields(request)
    if not request.input and request.previous_response_id is None:
        raise missing("input")
    return request


def _check_free_fields(request: CreateResponse | CountTokens) -> None:
    """Refuse what was read but cannot be written again, in fields whose content is free.

    orjson writes integers of 64 bits and 254 levels; the levels around these fields are ours.
    """
    fields: dict[str, Any] = {
        name: getattr(request, name) for name in ("input", "tools", "tool_choice")
    }
    if isinstance(request, CreateResponse):
        fields |= request.given()
        fields["text.format"] = None if request.text is None else request.text.format
    for name, value in fields.items():
        try:
            orjson.dumps([[[[[[[[[[value]]]]]]]]]])
        except TypeError:
            raise InvalidRequest(
                f"'{name}' holds a number of more than 64 bits, or is nested too deeply.",
                param=name,
            ) from None


def response_format(config: TextConfig | None) -> dict[str, Any] | None:
    """Give chat's `response_format` for `text.format`; None for plain text."""
    form = None if config is None else config.format
    if form is None:
        return None
    kind = form.get("type")
    if kind == "text":
        return None
    if kind == "json_object":
        return {"type": "json_object"}
    if kind != "json_schema":
        if not isinstance(kind, str):
            raise missing("text.format.type")
        raise wrong_value("text.format.type", kind, ("text", "json_object", "json_schema"))
    found = _json_schema(form)
    refuse_endless(found["schema"], "text.format.schema")
    return {"type": "json_schema", "json_schema": found}


def _json_schema(form: dict[str, Any]) -> dict[str, Any]:
    wanted: tuple[tuple[str, type, bool], ...] = (
        ("name", str, True),
        ("schema", dict, True),
        ("description", str, False),
        ("strict", bool, False),
    )
    found: dict[str, Any] = {}
    for name, kind, required in wanted:
        value = form.get(name)
        if value is None:
            if required:
                raise missing(f"text.format.{name}")
        elif isinstance(value, kind):
            found[name] = value
        else:
            raise InvalidRequest(
                f"Invalid type for 'text.format.{name}'.",
                param=f"text.format.{name}",
                code="invalid_type",
            )
    return found
