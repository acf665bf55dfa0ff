"""What did the caller put into `input`, in the one form in which items are stored and replayed?

Each item becomes complete: a type, an id (the caller's own or a new one), a status, and content as
a list of parts. The same form is answered by `/input_items` and turned into chat messages.
"""

from collections.abc import Callable, Mapping
from typing import Any

from gateway.errors import InvalidRequest
from gateway.wire.responses.attachments import read_file
from gateway.wire.responses.fields import (
    NewId,
    missing,
    objects,
    optional_text,
    text,
    wrong_type,
    wrong_value,
)

Item = dict[str, Any]

ROLES = ("user", "assistant", "system", "developer")
PHASES = ("commentary", "final_answer")
STATUSES = ("in_progress", "completed", "incomplete")


def references(given: str | list[Item] | None) -> list[str]:
    """Give the ids of stored items that the input refers to."""
    if not isinstance(given, list):
        return []
    return [
        text(each, "id", at) for at, each in objects(given, "input") if _kind(each) == REFERENCE
    ]


def input_items(
    given: str | list[Item] | None, *, new_id: NewId, stored: Mapping[str, Item]
) -> list[Item]:
    """Read `input`. `stored` holds what its references mean.

    Raises InvalidRequest that names the item, such as `input[2].content[0].type`.
    """
    if given is None:
        return []
    if isinstance(given, str):
        given = [{"role": "user", "content": given}]
    return [_item(each, at, new_id, stored) for at, each in objects(given, "input")]


def _kind(item: Item) -> str:
    kind = item.get("type")
    if isinstance(kind, str):
        return kind
    if kind is None:
        return "message" if "role" in item else REFERENCE if "id" in item else ""
    raise wrong_type("input[].type", "a string", kind)


def _item(item: Item, at: str, new_id: NewId, stored: Mapping[str, Item]) -> Item:
    kind = _kind(item)
    if kind == REFERENCE:
        found = stored.get(text(item, "id", at))
        if found is None:
            raise InvalidRequest(f"Item with id '{item['id'][:100]}' not found.", param=f"{at}.id")
        return found
    if not kind:
        raise missing(f"{at}.type")
    read = _READERS.get(kind)
    if read is None:
        raise wrong_value(f"{at}.type", kind, (*_READERS, REFERENCE))
    prefix, fields = read(item, at)
    return {
        "type": kind,
        "id": optional_text(item, "id", at) or new_id(prefix),
        "status": _one_of(item, "status", at, STATUSES) or "completed",
        **fields,
    }


def _one_of(item: Item, name: str, at: str, allowed: tuple[str, ...]) -> str | None:
    found = optional_text(item, name, at)
    if found is not None and found not in allowed:
        raise wrong_value(f"{at}.{name}", found, allowed)
    return found


def _message(item: Item, at: str) -> tuple[str, Item]:
    role = text(item, "role", at)
    if role not in ROLES:
        raise wrong_value(f"{at}.role", role, ROLES)
    part = _output_part if role == "assistant" else _input_part
    content = item.get("content")
    if content is None:
        raise missing(f"{at}.content")
    if isinstance(content, str):
        kind = "output_text" if role == "assistant" else "input_text"
        content = [{"type": kind, "text": content}]
    fields = {
        "role": role,
        "content": [part(each, where) for where, each in objects(content, f"{at}.content")],
    }
    phase = _one_of(item, "phase", at, PHASES)
    if phase is not None and role == "assistant":
        fields["phase"] = phase
    return "msg", fields


def _input_part(part: Item, at: str) -> Item:
    kind = text(part, "type", at)
    # Some SDKs replay an answer's parts under another role.
    if kind in ("input_text", "output_text", "text"):
        return {"type": "input_text", "text": text(part, "text", at)}
    if kind == "input_image":
        url = optional_text(part, "image_url", at)
        if url is None:
            raise InvalidRequest(
                "Images are taken as 'image_url' only; stored files are not served here.",
                param=f"{at}.image_url",
                code="unsupported_value",
            )
        detail = optional_text(part, "detail", at) or "auto"
        return {"type": "input_image", "image_url": url, "detail": detail}
    if kind == "input_file":
        return read_file(part, at)
    raise wrong_value(f"{at}.type", kind, ("input_text", "input_image", "input_file"))


def _output_part(part: Item, at: str) -> Item:
    kind = text(part, "type", at)
    if kind == "refusal":
        return {"type": "refusal", "refusal": text(part, "refusal", at)}
    if kind not in ("output_text", "input_text", "text"):
        raise wrong_value(f"{at}.type", kind, ("output_text", "refusal"))
    return {
        "type": "output_text",
        "text": text(part, "text", at),
        "annotations": part.get("annotations") or [],
        "logprobs": part.get("logprobs") or [],
    }


def _function_call(item: Item, at: str) -> tuple[str, Item]:
    return "fc", _call(item, at, "arguments")


def _custom_call(item: Item, at: str) -> tuple[str, Item]:
    return "ctc", _call(item, at, "input")


def _call(item: Item, at: str, given: str) -> Item:
    fields = {name: text(item, name, at) for name in ("call_id", "name", given)}
    namespace = optional_text(item, "namespace", at)
    return fields if namespace is None else {"namespace": namespace, **fields}


def _call_output(item: Item, at: str) -> tuple[str, Item]:
    output = item.get("output")
    if output is None:
        raise missing(f"{at}.output")
    if not isinstance(output, str):
        output = [_input_part(each, where) for where, each in objects(output, f"{at}.output")]
    prefix = "ctco" if item["type"].startswith("custom") else "fco"
    return prefix, {"call_id": text(item, "call_id", at), "output": output}


def _reasoning(item: Item, at: str) -> tuple[str, Item]:
    fields: Item = {"summary": _texts(item, "summary", at, "summary_text")}
    fields["content"] = _texts(item, "content", at, "reasoning_text")
    encrypted = optional_text(item, "encrypted_content", at)
    if encrypted is not None:
        fields["encrypted_content"] = encrypted
    return "rs", fields


def _texts(item: Item, name: str, at: str, kind: str) -> list[Item]:
    found = item.get(name)
    if found is None:
        return []
    return [
        {"type": kind, "text": text(each, "text", where)}
        for where, each in objects(found, f"{at}.{name}")
    ]


REFERENCE = "item_reference"

_READERS: dict[str, Callable[[Item, str], tuple[str, Item]]] = {
    "message": _message,
    "function_call": _function_call,
    "function_call_output": _call_output,
    "custom_tool_call": _custom_call,
    "custom_tool_call_output": _call_output,
    "reasoning": _reasoning,
}
