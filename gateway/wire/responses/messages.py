"""Which chat messages say the same as a conversation's items?

Items are finer than messages: a turn of the model (its reasoning, its text, its calls of tools)
is several items and one assistant message. Instructions and the system and developer messages at
the front become one system message, since many chat templates take one only, and only first.
"""

from typing import Any

from gateway.errors import InvalidRequest
from gateway.wire.responses.attachments import spoken
from gateway.wire.responses.items import Item
from gateway.wire.responses.namespaces import engine_name
from gateway.wire.responses.tools import arguments_of, custom_arguments

Message = dict[str, Any]


def messages(items: list[Item], instructions: str | None) -> list[Message]:
    """Turn items into chat messages. Raises InvalidRequest for an output of no known call."""
    thread = _Thread(instructions)
    for item in items:
        match item["type"]:
            case "message":
                thread.message(item)
            case "reasoning":
                thread.reasoning(item)
            case "function_call":
                thread.call(item, arguments_of(item["arguments"]))
            case "custom_tool_call":
                thread.call(item, custom_arguments(item["input"]))
            case "function_call_output" | "custom_tool_call_output":
                thread.output(item)
    return thread.finish()


class _Thread:
    def __init__(self, instructions: str | None) -> None:
        self._done: list[Message] = []
        self._front = [instructions] if instructions else []
        self._turn: Message | None = None
        self._thoughts: list[str] = []
        self._calls: set[str] = set()

    def message(self, item: Item) -> None:
        role = item["role"]
        if role == "assistant":
            self._speak(item)
            return
        self._end_turn()
        if role == "user":
            self._done.append({"role": "user", "content": _content(item["content"])})
            return
        told = _plain(item["content"])
        if self._done:
            self._done.append({"role": "system", "content": told})
        else:
            self._front.append(told)

    def reasoning(self, item: Item) -> None:
        parts = item.get("content") or item.get("summary") or []
        told = "".join(part["text"] for part in parts)
        if not told:
            return
        if self._turn is not None:
            self._end_turn()
        self._thoughts.append(told)

    def call(self, item: Item, arguments: str) -> None:
        self._calls.add(item["call_id"])
        called = engine_name(item.get("namespace"), item["name"])
        self._open_turn().setdefault("tool_calls", []).append(
            {
                "id": item["call_id"],
                "type": "function",
                "function": {"name": called, "arguments": arguments},
            }
        )

    def output(self, item: Item) -> None:
        if item["call_id"] not in self._calls:
            raise InvalidRequest(
                f"No tool call found for the output with call_id '{item['call_id'][:100]}'.",
                param="input",
            )
        self._end_turn()
        output = item["output"]
        content = output if isinstance(output, str) else _content(output)
        self._done.append({"role": "tool", "tool_call_id": item["call_id"], "content": content})

    def finish(self) -> list[Message]:
        self._end_turn()
        if not self._front:
            return self._done
        return [{"role": "system", "content": "\n\n".join(self._front)}, *self._done]

    def _speak(self, item: Item) -> None:
        if self._turn is not None and self._turn["content"] is not None:
            self._end_turn()
        turn = self._open_turn()
        turn["content"] = "".join(p.get("text", p.get("refusal", "")) for p in item["content"])
        if "phase" in item:
            turn["phase"] = item["phase"]

    def _open_turn(self) -> Message:
        if self._turn is None:
            self._turn = {"role": "assistant", "content": None}
            if self._thoughts:
                self._turn["reasoning_content"] = "\n".join(self._thoughts)
                self._thoughts = []
        return self._turn

    def _end_turn(self) -> None:
        if self._turn is not None:
            self._done.append(self._turn)
            self._turn = None
        # Thoughts that no answer followed are of no use to the next turn.
        self._thoughts = []


def _content(parts: list[Item]) -> str | list[Item]:
    if len(parts) == 1 and parts[0]["type"] == "input_text":
        return str(parts[0]["text"])
    return [_part(each) for each in parts]


def _part(part: Item) -> Item:
    if part["type"] == "input_text":
        return {"type": "text", "text": part["text"]}
    if part["type"] == "input_file":
        return {"type": "text", "text": spoken(part)}
    return {"type": "image_url", "image_url": {"url": part["image_url"], "detail": part["detail"]}}


def _plain(parts: list[Item]) -> str:
    texts = [part["text"] for part in parts if part["type"] == "input_text"]
    if len(texts) != len(parts):
        raise InvalidRequest(
            "System and developer messages hold text only.", param="input", code="unsupported_value"
        )
    return "\n".join(texts)
