"""Which of SGLang's own frames and documents break real clients, and how are they mended?

Found with SGLang 0.5.23: tool-call deltas after the first carry `"id": null` and a null function
name, on which strict clients fail; unary answers carry a `metadata` object of lists where OpenAI
has a map of strings, and no `refusal`; tokens of reasoning are counted beside a null
`completion_tokens_details`, where clients look for them; a model's name is echoed as the engine
knows it.
"""

import base64
import sys
from array import array
from typing import Any

from gateway.wire.sse import Edit
from gateway.wire.usage import respell


def stream_edit(*, tools: bool, model: str | None) -> Edit | None:
    """Give the edit for a stream's frames, or None where the frames may go on untouched.

    `tools`: the call may be answered by tool calls; `model`: the public name to show.
    """
    if not tools and model is None:
        return None

    def edit(frame: dict[str, Any]) -> bool:
        changed = False
        if model is not None and "model" in frame:
            frame["model"] = model
            changed = True
        for choice in frame.get("choices") or ():
            delta = choice.get("delta")
            if isinstance(delta, dict) and delta.get("tool_calls"):
                changed = _drop_nulls(delta["tool_calls"]) or changed
        return changed

    return edit


def _drop_nulls(tool_calls: list[Any]) -> bool:
    changed = False
    for call in tool_calls:
        for part in (call, call.get("function")):
            if isinstance(part, dict):
                for key in [k for k, v in part.items() if v is None]:
                    del part[key]
                    changed = True
    return changed


def document_edit(document: dict[str, Any], *, model: str | None, tier: str | None) -> None:
    """Mend a unary answer in place."""
    document.pop("metadata", None)
    if model is not None and "model" in document:
        document["model"] = model
    if tier is not None:
        document["service_tier"] = tier


def generation_edit(document: dict[str, Any]) -> bool:
    """Mend what only generations have; whether anything changed."""
    changed = respell(document.get("usage"))
    for choice in document.get("choices") or ():
        message = choice.get("message")
        if isinstance(message, dict) and "refusal" not in message:
            message["refusal"] = None
            changed = True
    return changed


def embeddings_edit(document: dict[str, Any], *, as_base64: bool) -> None:
    """Give vectors as base64 of little-endian float32 where the caller asked for that."""
    if not as_base64:
        return
    for item in document.get("data") or ():
        vector = item.get("embedding")
        if isinstance(vector, list):
            item["embedding"] = base64.b64encode(_little_endian(vector)).decode()


def _little_endian(vector: list[float]) -> bytes:
    floats = array("f", vector)
    if sys.byteorder == "big":
        floats.byteswap()
    return floats.tobytes()
