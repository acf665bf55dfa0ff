"""What does an engine's error body say, in words that a caller may see?

Engines answer in many shapes: flat (`{"object": "error", "message": ...}`, SGLang's OpenAI routes),
nested (`{"error": {...}}`, also inside a stream's frame), a string (`{"error": "Unauthorized"}`),
FastAPI's `detail`, Anthropic's envelope, plain text. Messages may leak paths, tracebacks and dumps
of the body: none of that passes.
"""

import ast
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Any

import orjson

_LONGEST_MESSAGE = 500

# SGLang 0.5.23's two forms, and vLLM's and OpenAI's own, for servers that are adopted.
_CONTEXT = re.compile(
    r"longer than the model's context length"
    r"|max_(?:completion_|new_)?tokens is too large"
    r"|maximum context length"
    r"|exceeds? the (?:model's )?(?:maximum )?context (?:length|window)",
    re.IGNORECASE,
)
_QUEUE_FULL = re.compile(r"queue is full|too many (?:queued )?requests|overloaded", re.IGNORECASE)
_DUPLICATE = re.compile(r"duplicate request id", re.IGNORECASE)
_ABORTED = re.compile(r"\babort(?:ed)?\b", re.IGNORECASE)
_VALIDATION = re.compile(r"\d+ validation errors?:\s*(\{.*?\})\s*(?:\n|$)", re.DOTALL)
# "temperature must be a non-negative finite number, got -1.0."
_NAMED = re.compile(r"([a-z]+(?:_[a-z]+)*) must (?:be|have)\b")
_RENAMED = MappingProxyType({"max_new_tokens": "max_tokens"})
_TRACE = re.compile(r"Traceback \(most recent call last\)|^\s*File \".*\", line \d+", re.MULTILINE)
_PATH = re.compile(
    r"(?:file://)?(?<![\w./:])(?:~|\.{1,2})?/(?:[\w.@+~-]+/)+[\w.@+~-]*(?::\d+)?"
    r"|(?<!\w)[A-Za-z]:\\[^\s'\"]+"
)
_ADDRESS = re.compile(r"\b(?:https?|tcp|ipc|unix|redis)://[^\s'\",)]+")
# Anthropic's envelope has no status inside, and a stream's event has none around it.
_ANTHROPIC = MappingProxyType(
    {
        "invalid_request_error": 400,
        "authentication_error": 401,
        "permission_error": 403,
        "not_found_error": 404,
        "request_too_large": 413,
        "rate_limit_error": 429,
        "overloaded_error": 503,
    }
)
# Paths of the API itself may be named.
_OURS = re.compile(r"^/(?:v1/|generate\b|health\b)")


class ErrorKind(StrEnum):
    """What went wrong, as far as a caller or a retry must know."""

    CONTEXT_LENGTH = "context_length"
    INVALID_REQUEST = "invalid_request"
    DUPLICATE_RID = "duplicate_rid"
    QUEUE_FULL = "queue_full"
    UNAVAILABLE = "unavailable"
    ABORTED = "aborted"
    UNAUTHORIZED = "unauthorized"
    FORBIDDEN = "forbidden"
    NOT_FOUND = "not_found"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    INTERNAL = "internal"


@dataclass(frozen=True, slots=True)
class EngineError:
    """An engine's error: a message that is safe to show, the kind, the field at fault, the status.

    `status` is the engine's: the error's own code where the body has one (a frame inside a 200
    stream), else the answer's. The message of INTERNAL says nothing of the engine.
    """

    message: str
    kind: ErrorKind
    param: str | None = None
    status: int = 500


def error_of(status: int, body: bytes) -> EngineError:
    """Read an error body, or the JSON of an error frame; never raises."""
    found = _parse(body)
    raw, param = found.message, found.param
    code = found.code or status
    dump = _VALIDATION.search(raw)
    if dump is not None:
        raw, param = _validation(dump.group(1))
    elif param is None and (named := _NAMED.match(raw)):
        param = _RENAMED.get(named.group(1), named.group(1))
        raw = param + raw[named.end(1) :]
    kind = _kind(code, raw)
    if kind is ErrorKind.INTERNAL:
        return EngineError("The model failed to answer.", kind, None, code)
    return EngineError(scrub(raw) or _default(kind), kind, param, code)


def scrub(message: str) -> str:
    """Cut what a caller must not see: tracebacks with all that follows, paths, servers."""
    trace = _TRACE.search(message)
    text = message[: trace.start()] if trace else message
    text = _ADDRESS.sub("[address]", text)
    text = _PATH.sub(lambda m: m.group() if _OURS.match(m.group()) else "[path]", text)
    text = " ".join(text.split())
    return text if len(text) <= _LONGEST_MESSAGE else text[: _LONGEST_MESSAGE - 1] + "…"


@dataclass(frozen=True, slots=True)
class _Found:
    message: str
    code: int | None = None
    param: str | None = None


def _parse(body: bytes) -> _Found:
    try:
        given = orjson.loads(body)
    except orjson.JSONDecodeError:
        text = body[:4096].decode(errors="replace").strip()
        return _Found("" if text.startswith("<") else text)  # a proxy's HTML page says nothing
    if isinstance(given, str):
        return _Found(given)
    if not isinstance(given, Mapping):
        return _Found("")
    error = given.get("error", given)
    if isinstance(error, str):
        return _Found(error)
    if not isinstance(error, Mapping):
        return _Found("")
    if "detail" in error:
        return _detail(error["detail"])
    message = error.get("message")
    param = error.get("param")
    code = _code(error.get("code"))
    if code is None and given.get("type") == "error":
        code = _ANTHROPIC.get(str(error.get("type")))
    return _Found(
        message if isinstance(message, str) else "",
        code,
        param if isinstance(param, str) else None,
    )


def _detail(detail: Any) -> _Found:
    """Read FastAPI's `detail`: a string, or a list of what is wrong with which field."""
    if isinstance(detail, str):
        return _Found(detail)
    if isinstance(detail, list) and detail and isinstance(detail[0], Mapping):
        message, param = _complaint(detail[0])
        return _Found(message, None, param)
    if isinstance(detail, Mapping) and isinstance(detail.get("message"), str):
        return _Found(detail["message"])
    return _Found("")


def _code(code: Any) -> int | None:
    if isinstance(code, str) and code.isdecimal():
        code = int(code)
    is_status = isinstance(code, int) and not isinstance(code, bool) and 400 <= code <= 599
    return code if is_status else None


def _validation(dump: str) -> tuple[str, str | None]:
    """Read the first complaint of a validation dump, which is a Python literal."""
    try:
        complaint = ast.literal_eval(dump)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return _from_broken_dump(dump)
    if not isinstance(complaint, Mapping):
        return "The request is not valid.", None
    return _complaint(complaint)


def _from_broken_dump(dump: str) -> tuple[str, str | None]:
    """Read one that is not a literal (it holds objects): the parts that come before the input."""
    kind = re.search(r"'type': '(\w+)'", dump)
    location = re.search(r"'loc': \(([^)]*)\)", dump)
    message = re.search(r"'msg': (?:'([^']*)'|\"([^\"]*)\")", dump)
    parts = re.findall(r"'([^']*)'|(\d+)", location.group(1)) if location else []
    return _complaint(
        {
            "type": kind.group(1) if kind else "",
            "loc": tuple(name or int(number) for name, number in parts),
            "msg": (message.group(1) or message.group(2)) if message else "",
        }
    )


def _complaint(complaint: Mapping[str, Any]) -> tuple[str, str | None]:
    kind = str(complaint.get("type", ""))
    if kind == "json_invalid":
        return "The request body is not valid JSON.", None
    location = complaint.get("loc")
    parts = location if isinstance(location, (tuple, list)) else ()
    param = _path(parts[1:] if parts[:1] in (("body",), ["body"]) else parts)
    message = str(complaint.get("msg", "")).removeprefix("Value error, ").strip()
    if kind == "missing" and param:
        return f"Missing required parameter: '{param}'.", param
    if not param:
        return message or "The request is not valid.", None
    return f"Invalid value for '{param}': {message or 'not valid'}.", param


def _path(parts: tuple[Any, ...] | list[Any]) -> str | None:
    """Give a field's place as OpenAI writes it: `messages[0].content`; names of types are left
    out."""
    out = ""
    for part in parts:
        if isinstance(part, int):
            out += f"[{part}]"
        elif isinstance(part, str) and re.fullmatch(r"[a-z_][a-z0-9_]*", part):
            out += f".{part}" if out else part
    return out or None


def _kind(status: int, message: str) -> ErrorKind:
    if status == 503:
        return ErrorKind.QUEUE_FULL if _QUEUE_FULL.search(message) else ErrorKind.UNAVAILABLE
    by_status = {
        401: ErrorKind.UNAUTHORIZED,
        403: ErrorKind.FORBIDDEN,
        404: ErrorKind.NOT_FOUND,
        405: ErrorKind.METHOD_NOT_ALLOWED,
        429: ErrorKind.QUEUE_FULL,
    }
    if status in by_status:
        return by_status[status]
    if status >= 500 or status < 400:
        return ErrorKind.ABORTED if _ABORTED.search(message) else ErrorKind.INTERNAL
    if _CONTEXT.search(message):
        return ErrorKind.CONTEXT_LENGTH
    if _DUPLICATE.search(message):
        return ErrorKind.DUPLICATE_RID
    return ErrorKind.INVALID_REQUEST


def _default(kind: ErrorKind) -> str:
    match kind:
        case ErrorKind.INVALID_REQUEST | ErrorKind.CONTEXT_LENGTH:
            return "The request is not valid."
        case ErrorKind.QUEUE_FULL:
            return "The model is busy."
        case ErrorKind.NOT_FOUND:
            return "Not found."
        case ErrorKind.ABORTED:
            return "The request was aborted."
        case _:
            return "The model is not available."
