"""Which tools may the model call, under which names does the engine know them, and what came back?

The engine knows functions alone. A custom tool (free text in, as coding agents use it) becomes a
function of one string argument, `input`, and its calls are turned back. A grammar of a custom tool
cannot be enforced through that door, so it is told to the model in the description. Tools of a
namespace go under flat names (`namespaces`).
"""

import re
from dataclasses import dataclass, field
from typing import Any

import orjson

from gateway.errors import InvalidRequest
from gateway.wire.responses.fields import (
    missing,
    objects,
    optional_flag,
    optional_object,
    optional_text,
    text,
    wrong_value,
)
from gateway.wire.responses.namespaces import (
    NAMESPACE,
    Members,
    Tool,
    engine_name,
    flat,
    members,
)
from gateway.wire.schemas import refuse_endless

SERVED = ("function", "custom")
# Tools that a hosted service would run. A model may use them, so a request that lists them (as
# coding agents do) can be served without; one that forces them cannot.
HOSTED = frozenset(
    {
        "web_search",
        "web_search_2025_08_26",
        "web_search_preview",
        "web_search_preview_2025_03_11",
        "file_search",
        "code_interpreter",
        "image_generation",
        "computer",
        "computer_use_preview",
        "mcp",
        "local_shell",
        "shell",
        "apply_patch",
        "tool_search",
    }
)
_NAME = re.compile(r"[a-zA-Z0-9_-]{1,128}")


@dataclass(frozen=True, slots=True)
class Toolbox:
    """Tools of one request: in the caller's words and in the engine's.

    `tools` and `choice` are echoed in the response object. `offered` and `chat_choice` go to the
    engine: no tools offered, neither is sent. `custom` names the tools that take free text, and
    `members` those of namespaces, both by the engine's names.
    """

    tools: tuple[dict[str, Any], ...] = ()
    choice: str | dict[str, Any] = "auto"
    offered: tuple[dict[str, Any], ...] = ()
    chat_choice: str | dict[str, Any] = "auto"
    custom: frozenset[str] = frozenset()
    members: Members = field(default_factory=dict)


def toolbox(tools: list[dict[str, Any]] | None, choice: str | dict[str, Any] | None) -> Toolbox:
    """Read `tools` and `tool_choice`.

    Hosted tools are echoed and not offered. Raises InvalidRequest for one that is forced, and for
    a type that nobody knows.
    """
    listed = [_tool(each, at) for at, each in objects(tools or [], "tools")]
    known = [(at, each) for at, each in flat(listed) if each["type"] in SERVED]
    names = [each["name"] for _, each in known]
    for index, (at, _) in enumerate(known):
        if names[index] in names[:index]:
            raise InvalidRequest(
                f"The tool name '{names[index]}' is used twice.", param=f"{at}.name"
            )
    allowed, chat_choice = _choice(
        "auto" if choice is None else choice, [each for _, each in known]
    )
    forced = chat_choice not in ("auto", "none")
    return Toolbox(
        tools=tuple(_firm(each) if forced else each for each in listed),
        choice="auto" if choice is None else choice,
        offered=tuple(
            _offer(_firm(each) if forced else each) for _, each in known if each["name"] in allowed
        ),
        chat_choice=chat_choice,
        custom=frozenset(each["name"] for _, each in known if each["type"] == "custom"),
        members=members(listed),
    )


def _firm(tool: Tool) -> Tool:
    """Ask for arguments that keep to the schema, unless the caller said otherwise.

    A forced call without `strict` constrains the name only: SGLang 0.5.23 then lets arguments such
    as `12264` or `null` through, and refuses them itself on the next turn.
    """
    is_open = tool["type"] == "function" and tool["strict"] is None
    return {**tool, "strict": True} if is_open else tool


def _tool(tool: dict[str, Any], at: str) -> dict[str, Any]:
    kind = text(tool, "type", at)
    if kind in HOSTED:
        return tool
    if kind == NAMESPACE:
        return _namespace(tool, at)
    if kind not in SERVED:
        raise _unsupported(kind, at, (*SERVED, NAMESPACE))
    name = text(tool, "name", at)
    if not _NAME.fullmatch(name):
        raise InvalidRequest(
            f"Invalid '{at}.name': 1 to 128 letters, digits, underscores and hyphens are allowed.",
            param=f"{at}.name",
        )
    description = optional_text(tool, "description", at)
    if kind == "custom":
        return {
            **tool,
            "description": description,
            "format": _grammar(tool, at) or {"type": "text"},
        }
    parameters = optional_object(tool, "parameters", at)
    refuse_endless(parameters, f"{at}.parameters")
    return {
        **tool,
        "description": description,
        "parameters": parameters,
        "strict": optional_flag(tool, "strict", at),
    }


def _namespace(tool: Tool, at: str) -> Tool:
    inner = objects(tool.get("tools"), f"{at}.tools")
    for where, each in inner:
        kind = text(each, "type", where)
        if kind not in SERVED:
            raise _unsupported(kind, where, SERVED)
    return {
        **tool,
        "name": text(tool, "name", at),
        "description": optional_text(tool, "description", at),
        "tools": [_tool(each, where) for where, each in inner],
    }


def _unsupported(kind: str, at: str, supported: tuple[str, ...]) -> InvalidRequest:
    names = ", ".join(f"'{each}'" for each in supported)
    return InvalidRequest(
        f"Unsupported tool type: '{kind[:100]}'. Supported values are: {names}.",
        param=f"{at}.type",
        code="unsupported_value",
    )


def _grammar(tool: dict[str, Any], at: str) -> dict[str, Any] | None:
    found = optional_object(tool, "format", at)
    if found is None:
        return None
    kind = text(found, "type", f"{at}.format")
    if kind not in ("text", "grammar"):
        raise wrong_value(f"{at}.format.type", kind, ("text", "grammar"))
    if kind == "grammar":
        text(found, "definition", f"{at}.format")
        text(found, "syntax", f"{at}.format")
    return found


def _offer(tool: dict[str, Any]) -> dict[str, Any]:
    if tool["type"] == "custom":
        return {"type": "function", "function": _as_function(tool)}
    function: dict[str, Any] = {"name": tool["name"]}
    for name in ("description", "parameters", "strict"):
        if tool[name] is not None:
            function[name] = tool[name]
    return {"type": "function", "function": function}


def _as_function(tool: dict[str, Any]) -> dict[str, Any]:
    told = [tool["description"] or ""]
    form = tool["format"]
    if form["type"] == "grammar":
        told.append(f"The input must match this {form['syntax']} grammar:\n{form['definition']}")
    return {
        "name": tool["name"],
        "description": "\n\n".join(each for each in told if each),
        "parameters": {
            "type": "object",
            "properties": {"input": {"type": "string", "description": "The tool's whole input."}},
            "required": ["input"],
            "additionalProperties": False,
        },
        "strict": True,
    }


def _choice(
    choice: str | dict[str, Any], known: list[dict[str, Any]]
) -> tuple[frozenset[str], str | dict[str, Any]]:
    """Give the names that are offered, and chat's `tool_choice`."""
    everything = frozenset(each["name"] for each in known)
    if isinstance(choice, str):
        if choice not in ("auto", "none", "required"):
            raise wrong_value("tool_choice", choice, ("auto", "none", "required"))
        if choice == "required" and not known:
            raise InvalidRequest(
                "'tool_choice' is 'required', but no 'tools' are given that run here.",
                param="tool_choice",
            )
        return everything, choice
    kind = text(choice, "type", "tool_choice")
    if kind in SERVED:
        name = _called(choice, "tool_choice")
        _find(kind, name, known, "tool_choice")
        return everything, {"type": "function", "function": {"name": name}}
    if kind != "allowed_tools":
        raise wrong_value("tool_choice.type", kind, (*SERVED, "allowed_tools"))
    mode = text(choice, "mode", "tool_choice")
    if mode not in ("auto", "required"):
        raise wrong_value("tool_choice.mode", mode, ("auto", "required"))
    allowed = []
    for at, each in objects(choice.get("tools"), "tool_choice.tools"):
        if each.get("type") in HOSTED and mode == "auto":
            continue
        name = _called(each, at)
        _find(text(each, "type", at), name, known, at)
        allowed.append(name)
    if not allowed and not choice.get("tools"):
        raise missing("tool_choice.tools")
    return frozenset(allowed), mode


def _called(choice: dict[str, Any], at: str) -> str:
    return engine_name(optional_text(choice, "namespace", at), text(choice, "name", at))


def _find(kind: str, name: str, known: list[dict[str, Any]], at: str) -> None:
    if not any(each["type"] == kind and each["name"] == name for each in known):
        raise InvalidRequest(
            f"Tool choice '{name[:100]}' not found in the 'tools' parameter.", param=at
        )


def arguments_of(found: str) -> str:
    """Give arguments that are surely a JSON object: as they came, or `{}`.

    A model that is not constrained writes `12264`, `null` or `Infinity` at times. SDKs parse these
    strings and engines refuse them on the next turn, so what is no object becomes an empty one:
    the caller's own schema check then tells the model what is missing.
    """
    try:
        parsed = orjson.loads(found)
    except orjson.JSONDecodeError:
        return "{}"
    return found if isinstance(parsed, dict) else "{}"


def custom_input(arguments: str) -> str:
    """Give the free text inside a custom tool's arguments; all of them where there is none."""
    try:
        parsed = orjson.loads(arguments)
    except orjson.JSONDecodeError:
        return arguments
    found = parsed.get("input") if isinstance(parsed, dict) else None
    return found if isinstance(found, str) else arguments


def custom_arguments(given: str) -> str:
    """Give the engine's arguments for a custom tool's free text."""
    return orjson.dumps({"input": given}).decode()
