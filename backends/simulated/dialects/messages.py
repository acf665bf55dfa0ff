"""How does an answer of /v1/messages (Anthropic's form) look, and what chat does its body ask
for?
"""

import uuid
from collections.abc import Mapping
from typing import Any

import orjson

from backends.simulated.calls import Call, Progress
from backends.simulated.dialects.usage import finish_of, usage_of
from backends.simulated.fields import Body, text_of
from backends.simulated.orders import Choice
from backends.simulated.refusals import Refusal, missing

_STOP_REASONS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}


def as_chat(body: Body, *, counting: bool = False) -> dict[str, Any]:
    """Give the chat body that asks for the same; Refusal where a required field is missing."""
    for name in ("model", "messages") if counting else ("model", "messages", "max_tokens"):
        if name not in body:
            raise missing(name, body)
    messages = body["messages"]
    if isinstance(messages, list):
        messages = [_message(m) for m in messages]
    if body.get("system"):
        messages = [{"role": "system", "content": text_of(body["system"])}, *messages]
    chat: dict[str, Any] = {
        name: body[name]
        for name in ("model", "max_tokens", "temperature", "top_p", "stream", "rid")
        if name in body
    }
    chat["messages"] = messages
    if body.get("stop_sequences"):
        chat["stop"] = body["stop_sequences"]
    if body.get("tools"):
        chat["tools"] = [_tool(t) for t in body["tools"] if isinstance(t, Mapping)]
    match body.get("tool_choice"):
        case {"type": "any"}:
            chat["tool_choice"] = "required"
        case {"type": "tool", "name": str(name)}:
            chat["tool_choice"] = {"type": "function", "function": {"name": name}}
    return chat


def _tool(tool: Mapping[str, Any]) -> dict[str, Any]:
    function = {"name": tool.get("name"), "parameters": tool.get("input_schema") or {}}
    return {"type": "function", "function": function}


def _message(message: Any) -> Any:
    """Flatten the blocks of a message (results of tools included) to the text that is read."""
    if not isinstance(message, Mapping):
        return message
    content = message.get("content")
    if isinstance(content, list):
        content = "".join(_block_text(b) for b in content)
    return {"role": message.get("role"), "content": content}


def _block_text(block: Any) -> str:
    if not isinstance(block, Mapping):
        return ""
    match block.get("type"):
        case "text":
            return str(block.get("text", ""))
        case "tool_result":
            return text_of(block.get("content"))
        case "tool_use":
            return orjson.dumps(block.get("input") or {}).decode()
        case _:
            return ""


class MessagesDialect:
    """Events and bodies of /v1/messages."""

    def __init__(self, *, cache_report: bool) -> None:
        self._cache_report = cache_report

    def opening(self, call: Call, choice: Choice) -> bytes:
        """Give message_start and the start of the one content block."""
        message = {
            "id": f"msg_{uuid.uuid4().hex}",
            "type": "message",
            "role": "assistant",
            "content": [],
            "model": call.order.model,
            "usage": {**self._input(call), "output_tokens": 0},
        }
        block: dict[str, Any] = {"type": "text", "text": ""}
        if choice.tool is not None:
            block = {"type": "tool_use", "id": choice.call_id, "name": choice.tool, "input": {}}
        start = {"type": "content_block_start", "index": 0, "content_block": block}
        return _event({"type": "message_start", "message": message}) + _event(start)

    def delta(self, call: Call, choice: Choice, start: int, end: int) -> bytes:
        """Give one content_block_delta with the text of some tokens."""
        text = choice.script.text(start, end) if end > start else ""
        if not text:
            return b""
        delta: dict[str, Any] = {"type": "text_delta", "text": text}
        if choice.tool is not None:
            delta = {"type": "input_json_delta", "partial_json": text}
        return _event({"type": "content_block_delta", "index": 0, "delta": delta})

    def closing(self, call: Call) -> bytes:
        """Give the end of the block, message_delta and message_stop."""
        progress = call.progress[0]
        delta = {
            "type": "message_delta",
            "delta": {"stop_reason": _stop_reason(progress)},
            "usage": {"output_tokens": progress.generated},
        }
        block_stop = _event({"type": "content_block_stop", "index": 0})
        return block_stop + _event(delta) + _event({"type": "message_stop"})

    def refusal(self, refusal: Refusal) -> bytes:
        """Give the events of a stream that says no, after its greeting."""
        message = {
            "id": f"msg_{uuid.uuid4().hex}",
            "type": "message",
            "role": "assistant",
            "content": [],
            "model": "",
            "usage": {"input_tokens": 0, "output_tokens": 0},
        }
        error = {"type": "overloaded_error", "message": refusal.message}
        events = (
            {"type": "message_start", "message": message},
            {"type": "error", "error": error},
            {"type": "message_stop"},
        )
        return b"".join(_event(each) for each in events)

    def unary(self, call: Call) -> bytes:
        """Give the whole message."""
        progress = call.progress[0]
        choice = progress.choice
        text = choice.script.text(0, progress.visible)
        block: dict[str, Any] = {"type": "text", "text": text}
        if choice.tool is not None:
            given = orjson.loads(text) if progress.finish == "stop" else {}
            block = {"type": "tool_use", "id": choice.call_id, "name": choice.tool, "input": given}
        return orjson.dumps(
            {
                "id": f"msg_{uuid.uuid4().hex}",
                "type": "message",
                "role": "assistant",
                "content": [block],
                "model": call.order.model,
                "stop_reason": _stop_reason(progress),
                "usage": {**self._input(call), "output_tokens": progress.generated},
            }
        )

    def _input(self, call: Call) -> dict[str, int]:
        usage = usage_of(call, cache_report=self._cache_report)
        cached = (usage["prompt_tokens_details"] or {}).get("cached_tokens", 0)
        counted = {"input_tokens": usage["prompt_tokens"] - cached}
        return {**counted, "cache_read_input_tokens": cached} if cached else counted


def _stop_reason(progress: Progress) -> str:
    finish, _ = finish_of(progress)
    if progress.choice.tool is not None and finish == "stop":
        finish = "tool_calls"
    return _STOP_REASONS.get(finish or "stop", "end_turn")


def _event(event: dict[str, Any]) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (event["type"].encode(), orjson.dumps(event))
