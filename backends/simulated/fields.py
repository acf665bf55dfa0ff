"""Does a field of a request's body have its type, and what does it say?"""

import math
from collections.abc import Mapping
from json import JSONDecodeError, loads
from typing import Any, TypeAlias

import orjson

from backends.simulated.refusals import Invalid, Refusal
from backends.simulated.words import detokenize

Body: TypeAlias = Mapping[str, Any]

_ROLES = frozenset({"system", "user", "assistant", "tool", "function", "developer"})


class NotAnObject(Exception):
    """The body is JSON, but no object: SGLang answers 500 in plain text."""


def parse(raw: bytes, content_type: str) -> dict[str, Any]:
    """Read a JSON object; Invalid where it is none, NotAnObject where it is another kind of
    JSON.
    """
    if content_type.split(";")[0].strip().lower() != "application/json":
        raise Invalid(
            "value_error", (), "Unsupported Media Type: Only 'application/json' is allowed", {}
        )
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError:
        body = _slowly(raw)
    if not isinstance(body, dict):
        raise NotAnObject
    return body


def _slowly(raw: bytes) -> object:
    """Read what the strict parser refused (NaN, lone surrogates), or say where it is malformed."""
    try:
        return loads(raw.decode(errors="replace"))
    except JSONDecodeError as error:
        raise Invalid(
            "json_invalid", (error.pos,), "JSON decode error", {}, ctx={"error": error.msg}
        ) from None
    except (ValueError, RecursionError):  # an integer of more digits than Python reads
        raise Refusal("There was an error parsing the body") from None


def integer(body: Body, name: str) -> int | None:
    """Give an integer field, or None; Invalid where it is something else."""
    value = body.get(name)
    if value is None:
        return None
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        raise Invalid("int_type", (name,), "Input should be a valid integer", value)
    return value


def flag(body: Body, name: str) -> bool:
    """Give a boolean field, False where it is missing; Invalid where it is something else."""
    value = body.get(name)
    if value is not None and not isinstance(value, bool):
        raise Invalid("bool_type", (name,), "Input should be a valid boolean", value)
    return bool(value)


def check_sampling(body: Body, limit: int | None) -> None:
    """Refuse sampling parameters out of range, in SGLang's words."""
    if limit is not None and limit < 0:
        raise Refusal(f"max_new_tokens must be at least 0, got {limit}.")
    temperature = _number(body, "temperature")
    if temperature is not None and (temperature < 0 or not math.isfinite(temperature)):
        raise Refusal(f"temperature must be a non-negative finite number, got {temperature}.")
    top_p = _number(body, "top_p")
    if top_p is not None and not 0 < top_p <= 1:
        raise Refusal(f"top_p must be in (0, 1], got {top_p}.")
    for name in ("frequency_penalty", "presence_penalty"):
        penalty = _number(body, name)
        if penalty is not None and not -2 <= penalty <= 2:
            raise Refusal(f"{name} must be in [-2, 2], got {penalty}.")
    count = integer(body, "n")
    if count is not None and count < 1:
        raise Invalid(
            "greater_than_equal", ("n",), "Input should be greater than or equal to 1", count
        )
    stop = body.get("stop")
    if stop is not None and not isinstance(stop, str) and not _all_of(stop, str):
        raise Invalid("string_type", ("stop",), "Input should be a valid string", stop)
    options = body.get("stream_options")
    if options is not None and not isinstance(options, Mapping):
        raise Invalid(
            "model_type", ("stream_options",), "Input should be a valid dictionary", options
        )


def messages_of(body: Body) -> list[Body]:
    """Give the messages of a chat; Invalid where they are no list of messages."""
    messages = body["messages"]
    if not isinstance(messages, list):
        raise Invalid("list_type", ("messages",), "Input should be a valid list", messages)
    for i, message in enumerate(messages):
        if not isinstance(message, Mapping):
            raise Invalid(
                "model_attributes_type",
                ("messages", i),
                "Input should be a valid dictionary",
                message,
            )
        if message.get("role") not in _ROLES:
            raise Invalid(
                "literal_error",
                ("messages", i, "role"),
                "Input should be a known role",
                message.get("role"),
            )
    return messages


def rendered(messages: list[Body], tools: object = None, *, opened: bool = True) -> str:
    """Give the prompt that a chat becomes: each message under its role, then the assistant's
    turn.
    """
    parts = [f"<tools>{orjson.dumps(tools).decode()}\n"] if tools else []
    for message in messages:
        calls = message.get("tool_calls")
        extra = orjson.dumps(calls).decode() if calls else ""
        parts.append(f"<|{message.get('role')}|>\n{text_of(message.get('content'))}{extra}\n")
    if opened:
        parts.append("<|assistant|>\n")
    return "".join(parts)


def text_of(content: object) -> str:
    """Give the text of a message's content: a string, or parts of which the textual ones count."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "".join(
            text_of(p.get("text", "")) if isinstance(p, Mapping) else str(p) for p in content
        )
    return ""


def text_or_ids(value: object, name: str) -> list[str]:
    """Give the prompts of a field that holds a text, token ids, or a list of either."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, list) and value:
        if _all_of(value, int):
            return [detokenize(_positive(value, name))]
        if _all_of(value, str):
            return list(value)
        if all(isinstance(v, list) and _all_of(v, int) for v in value):
            return [detokenize(_positive(v, name)) for v in value]
    raise Invalid("string_type", (name,), "Input should be a valid string", value)


def _positive(ids: list[int], name: str) -> list[int]:
    if any(i < 0 or i >= 1 << 64 for i in ids):
        raise Refusal(f"{name} holds token ids out of range.")
    return ids


def _all_of(value: object, kind: type) -> bool:
    return isinstance(value, list) and all(
        isinstance(v, kind) and not isinstance(v, bool) for v in value
    )


def _number(body: Body, name: str) -> float | None:
    value = body.get(name)
    if value is None:
        return None
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise Invalid("float_type", (name,), "Input should be a valid number", value)
    return float(value)
