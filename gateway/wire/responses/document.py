"""What does the whole `response` object say, before, during and after the answer?

Every field of the public Open Responses schema is there (its ResponseResource, required numbers
never null), plus what OpenAI's SDK reads. The object is a plain dict: it is what goes over the
wire and what is stored.
"""

from dataclasses import dataclass
from typing import Any

from gateway.call import Usage
from gateway.errors import GatewayError
from gateway.wire.responses.items import Item
from gateway.wire.responses.request import CreateResponse
from gateway.wire.responses.tools import Toolbox

Document = dict[str, Any]

TERMINAL = frozenset({"completed", "incomplete", "failed", "cancelled"})

# Codes that clients act on; any other failure is OpenAI's `server_error`.
_SPOKEN_CODES = frozenset(
    {"context_length_exceeded", "server_is_overloaded", "rate_limit_exceeded", "invalid_prompt"}
)


@dataclass(frozen=True, slots=True)
class Ending:
    """How an answer ended, in this API's words."""

    status: str
    reason: str | None = None

    @property
    def complete(self) -> bool:
        """Whether the model said all it wanted to say."""
        return self.status == "completed"


def ending(finish_reason: str | None) -> Ending:
    """Translate chat's `finish_reason`."""
    if finish_reason == "length":
        return Ending("incomplete", "max_output_tokens")
    if finish_reason == "content_filter":
        return Ending("incomplete", "content_filter")
    return Ending("completed")


def created(
    request: CreateResponse, tools: Toolbox, *, response_id: str, tier: str | None, now: float
) -> Document:
    """Give the object as it is before the first token; `now` in Unix seconds."""
    background = bool(request.background)
    return {
        "id": response_id,
        "object": "response",
        "created_at": int(now),
        "completed_at": None,
        "status": "queued" if background else "in_progress",
        "background": background,
        "error": None,
        "incomplete_details": None,
        "instructions": request.instructions,
        "max_output_tokens": request.max_output_tokens,
        "max_tool_calls": request.max_tool_calls,
        "model": request.model,
        "output": [],
        "parallel_tool_calls": request.parallel_tool_calls is not False,
        "previous_response_id": request.previous_response_id,
        "prompt_cache_key": request.prompt_cache_key,
        "reasoning": _reasoning(request),
        "safety_identifier": request.safety_identifier,
        "service_tier": tier or "default",
        "store": request.stores,
        "temperature": _or(request.temperature, 1.0),
        "text": _text(request),
        "tool_choice": tools.choice,
        "tools": list(tools.tools),
        "top_logprobs": _or(request.top_logprobs, 0),
        "top_p": _or(request.top_p, 1.0),
        "presence_penalty": _or(request.presence_penalty, 0.0),
        "frequency_penalty": _or(request.frequency_penalty, 0.0),
        "truncation": request.truncation or "disabled",
        "usage": None,
        "user": request.user,
        "metadata": request.metadata or {},
    }


def _or(value: float | None, default: float) -> float:
    return default if value is None else value


def _reasoning(request: CreateResponse) -> Document:
    given = request.reasoning
    if given is None:
        return {"effort": None, "summary": None}
    return {"effort": given.effort, "summary": given.summary or given.generate_summary}


def _text(request: CreateResponse) -> Document:
    given = request.text
    form = {"type": "text"} if given is None or given.format is None else given.format
    if form.get("type") == "json_schema":
        form = {"description": None, "strict": None, **form}
    verbosity = "medium" if given is None else given.verbosity or "medium"
    return {"format": form, "verbosity": verbosity}


def finished(
    document: Document, output: list[Item], end: Ending, usage: Usage | None, *, now: float
) -> Document:
    """Give the object after the last token; `now` in Unix seconds."""
    return {
        **document,
        "status": end.status,
        "completed_at": int(now) if end.complete else None,
        "incomplete_details": None if end.reason is None else {"reason": end.reason},
        "output": output,
        "usage": usage_object(usage),
    }


def failed(document: Document, output: list[Item], error: GatewayError) -> Document:
    """Give the object of an answer that broke."""
    code = error.code if error.code in _SPOKEN_CODES else None
    if error.status == 429:
        code = "rate_limit_exceeded"
    elif error.status == 400 and code is None:
        code = "invalid_prompt"
    return {
        **document,
        "status": "failed",
        "error": {"code": code or "server_error", "message": error.message},
        "output": output,
    }


def cancelled(document: Document) -> Document:
    """Give the object of a background response that was stopped."""
    return {**document, "status": "cancelled"}


def usage_object(usage: Usage | None) -> Document | None:
    """Give token counts in this API's shape."""
    if usage is None:
        return None
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }
