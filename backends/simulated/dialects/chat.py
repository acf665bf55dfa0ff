"""How does an answer of /v1/chat/completions look?"""

from typing import Any

import orjson

from backends.simulated.calls import Call, Progress
from backends.simulated.dialects.usage import (
    chat_logprobs,
    finish_of,
    metadata_of,
    usage_of,
    usage_of_one,
)
from backends.simulated.orders import Choice
from backends.simulated.refusals import Refusal, error_frame

DONE = b"data: [DONE]\n\n"
_TAIL = b'},"logprobs":null,"finish_reason":null,"matched_stop":null}]'


class ChatDialect:
    """Frames and bodies of chat; `cache_report` is --enable-cache-report."""

    def __init__(self, *, cache_report: bool) -> None:
        self._cache_report = cache_report

    def opening(self, call: Call, choice: Choice) -> bytes:
        """Give the role frame, and where a tool is called the frame with its id and name."""
        role = (
            _head(call, choice.index)
            + b'{"reasoning_content":null,"role":"assistant","content":""'
            + _TAIL
            + b"}\n\n"
        )
        if choice.tool is None:
            return role
        return role + self._tool_frame(call, choice, choice.call_id, choice.tool, "")

    def delta(self, call: Call, choice: Choice, start: int, end: int) -> bytes:
        """Give one frame with the text of some tokens."""
        text = choice.script.text(start, end) if end > start else ""
        if not text:
            return b""
        if choice.tool is not None:
            return self._tool_frame(call, choice, None, None, text)
        head = _head(call, choice.index) + b'{"reasoning_content":null,"content":'
        order = call.order
        if order.logprobs is None:
            frame = head + orjson.dumps(text) + _TAIL
        else:
            probabilities = orjson.dumps(chat_logprobs(choice, start, end, order.logprobs))
            frame = b'%b%b},"logprobs":%b,"finish_reason":null,"matched_stop":null}]' % (
                head,
                orjson.dumps(text),
                probabilities,
            )
        if order.continuous_usage:
            usage = usage_of_one(call.progress[choice.index], cache_report=self._cache_report)
            return b'%b,"usage":%b}\n\n' % (frame, orjson.dumps(usage))
        return frame + b"}\n\n"

    def closing(self, call: Call) -> bytes:
        """Give each choice's finish frame, the usage frame if it was asked for, and [DONE]."""
        parts = [self._finish_frame(call, progress) for progress in call.progress]
        if call.order.include_usage:
            usage = orjson.dumps(usage_of(call, cache_report=self._cache_report))
            parts.append(b'%b"choices":[],"usage":%b}\n\n' % (_envelope(call), usage))
        parts.append(DONE)
        return b"".join(parts)

    def refusal(self, refusal: Refusal) -> bytes:
        """Give the stream that SGLang sends where the queue is full."""
        kind = "SERVICE_UNAVAILABLE" if refusal.status == 503 else refusal.kind
        return error_frame(refusal.message, kind, refusal.status) + DONE

    def unary(self, call: Call) -> bytes:
        """Give the whole answer."""
        return orjson.dumps(self.response(call))

    def response(self, call: Call) -> dict[str, Any]:
        """Give the whole answer as an object."""
        order = call.order
        return {
            "id": order.rid,
            "object": "chat.completion",
            "created": order.created,
            "model": order.model,
            "choices": [self._unary_choice(order.logprobs, p) for p in call.progress],
            "usage": usage_of(call, cache_report=self._cache_report),
            "metadata": metadata_of(call),
        }

    def _unary_choice(self, logprobs: int | None, progress: Progress) -> dict[str, Any]:
        choice = progress.choice
        finish, matched = finish_of(progress)
        text = choice.script.text(0, progress.visible)
        message: dict[str, Any] = {"role": "assistant", "content": text, "reasoning_content": None}
        if choice.tool is not None:
            call = {"name": choice.tool, "arguments": text}
            message["content"] = ""
            message["tool_calls"] = [
                {"id": choice.call_id, "index": 0, "type": "function", "function": call}
            ]
            if finish == "stop":
                finish, matched = "tool_calls", None
        probabilities = None
        if logprobs is not None:
            probabilities = chat_logprobs(choice, 0, progress.visible, logprobs)
        return {
            "index": choice.index,
            "message": message,
            "logprobs": probabilities,
            "finish_reason": finish,
            "matched_stop": matched,
        }

    def _finish_frame(self, call: Call, progress: Progress) -> bytes:
        finish, matched = finish_of(progress)
        if progress.choice.tool is not None and finish == "stop":
            finish = "tool_calls"
        return (
            b'%b{"reasoning_content":null},"logprobs":null,"finish_reason":%b,"matched_stop":%b}]}\n\n'
            % (
                _head(call, progress.choice.index),
                orjson.dumps(finish),
                orjson.dumps(matched),
            )
        )

    def _tool_frame(
        self, call: Call, choice: Choice, call_id: str | None, name: str | None, arguments: str
    ) -> bytes:
        # SGLang writes these frames by another path, with null keys and `usage` on each
        function = {"name": name, "arguments": arguments}
        delta = {
            "role": None,
            "content": None,
            "reasoning_content": None,
            "tool_calls": [{"id": call_id, "index": 0, "type": "function", "function": function}],
        }
        usage = None
        if call.order.continuous_usage:
            usage = usage_of_one(call.progress[choice.index], cache_report=self._cache_report)
        return (
            b'%b%b,"logprobs":null,"finish_reason":null,"matched_stop":null}],"usage":%b}\n\n'
            % (
                _head(call, choice.index),
                orjson.dumps(delta),
                orjson.dumps(usage),
            )
        )


def _envelope(call: Call) -> bytes:
    order = call.order
    return b'data: {"id":%b,"object":"chat.completion.chunk","created":%d,"model":%b,' % (
        orjson.dumps(order.rid),
        order.created,
        orjson.dumps(order.model),
    )


def _head(call: Call, index: int) -> bytes:
    """Give a frame up to its delta; the same for every frame of a choice, so it is kept with the
    call.
    """
    heads = call.heads
    head = heads.get(index)
    if head is None:
        head = heads[index] = b'%b"choices":[{"index":%d,"delta":' % (_envelope(call), index)
    return head
