"""How does an answer of /v1/completions look?"""

from typing import Any

import orjson

from backends.simulated.calls import Call, Progress
from backends.simulated.dialects.chat import DONE
from backends.simulated.dialects.usage import (
    completion_logprobs,
    finish_of,
    metadata_of,
    usage_of,
    usage_of_one,
)
from backends.simulated.orders import Choice
from backends.simulated.refusals import Refusal, error_frame


class CompletionDialect:
    """Frames and bodies of completions; `cache_report` is --enable-cache-report."""

    def __init__(self, *, cache_report: bool) -> None:
        self._cache_report = cache_report

    def opening(self, call: Call, choice: Choice) -> bytes:
        """Give the prompt where it is to be echoed; there is no role frame."""
        if not call.order.echo:
            return b""
        return self._frame(call, call.progress[choice.index], call.order.echo, None)

    def delta(self, call: Call, choice: Choice, start: int, end: int) -> bytes:
        """Give one frame with the text of some tokens; the last one carries the finish reason."""
        progress = call.progress[choice.index]
        text = choice.script.text(start, end) if end > start else ""
        if not text and progress.finish is None:
            return b""
        probabilities = None
        if call.order.logprobs is not None:
            probabilities = completion_logprobs(choice, start, end, call.order.logprobs)
        return self._frame(call, progress, text, probabilities)

    def closing(self, call: Call) -> bytes:
        """Give the usage frame if it was asked for, and [DONE]."""
        if not call.order.include_usage:
            return DONE
        usage = usage_of(call, cache_report=self._cache_report)
        usage = {k: v for k, v in usage.items() if v is not None}
        final = {**_envelope(call), "choices": [], "usage": usage}
        return b"data: %b\n\n" % orjson.dumps(final) + DONE

    def refusal(self, refusal: Refusal) -> bytes:
        """Give the stream that SGLang sends where the queue is full."""
        kind = "SERVICE_UNAVAILABLE" if refusal.status == 503 else refusal.kind
        return error_frame(refusal.message, kind, refusal.status) + DONE

    def unary(self, call: Call) -> bytes:
        """Give the whole answer."""
        body = {
            **_envelope(call),
            "choices": [self._unary_choice(call, p) for p in call.progress],
            "usage": usage_of(call, cache_report=self._cache_report),
            "metadata": metadata_of(call),
        }
        return orjson.dumps(body)

    def _unary_choice(self, call: Call, progress: Progress) -> dict[str, Any]:
        choice = progress.choice
        probabilities = None
        if call.order.logprobs is not None:
            probabilities = completion_logprobs(choice, 0, progress.visible, call.order.logprobs)
        finish, matched = finish_of(progress)
        return {
            "index": choice.index,
            "text": call.order.echo + choice.script.text(0, progress.visible),
            "logprobs": probabilities,
            "finish_reason": finish,
            "matched_stop": matched,
        }

    def _frame(
        self, call: Call, progress: Progress, text: str, logprobs: dict[str, Any] | None
    ) -> bytes:
        finish, matched = finish_of(progress)
        choice = {
            "index": progress.choice.index,
            "text": text,
            "logprobs": logprobs,
            "finish_reason": finish,
            "matched_stop": matched,
        }
        usage = None
        if call.order.continuous_usage:
            usage = usage_of_one(progress, cache_report=self._cache_report)
        return b"data: %b\n\n" % orjson.dumps(
            {**_envelope(call), "choices": [choice], "usage": usage}
        )


def _envelope(call: Call) -> dict[str, Any]:
    order = call.order
    return {
        "id": order.rid,
        "object": "text_completion",
        "created": order.created,
        "model": order.model,
    }
