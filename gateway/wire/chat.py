"""What of a chat request can be honoured here, and which tools does the engine hear of?

A field that would change the answer's meaning and that no engine here knows is refused by its name.
Engines know functions alone, by name; that only some of the tools may be used is told to them by
leaving the others out.
"""

from typing import Any

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from gateway.errors import InvalidRequest
from gateway.wire.openai import ChatRequest, ToolChoice
from gateway.wire.schemas import has_references, refuse_endless

_NOTHING = (b"null", b"[]")


class Offer(Struct, frozen=True):
    """What becomes of a request's tools: whose names go on, with which choice, and how strictly.

    `names` None: all of them. `choice` None: the caller's goes on as it is.
    """

    strict: bool = False
    names: frozenset[str] | None = None
    choice: str | None = None

    @property
    def is_plain(self) -> bool:
        """Whether the engine may hear the caller's own words."""
        return not self.strict and self.names is None

    def told(self, fields: dict[str, Raw]) -> dict[str, Raw]:
        """Give a body's fields with the tools that are offered.

        A forced tool is made strict unless the caller said otherwise: without it SGLang constrains
        only the tool's name, and arguments may be anything.
        """
        tools = msgspec.json.decode(fields["tools"], type=list[dict[str, Any]])
        if self.names is not None:
            tools = [tool for tool in tools if tool["function"]["name"] in self.names]
        for tool in tools if self.strict else ():
            if tool["function"].get("strict") is None:
                tool["function"]["strict"] = True
        fields = {**fields, "tools": Raw(msgspec.json.encode(tools))}
        if self.choice is not None:
            fields["tool_choice"] = Raw(msgspec.json.encode(self.choice))
        return fields


def refuse_unserved(request: ChatRequest) -> None:
    """Raise InvalidRequest for what no engine here can do."""
    if _is_given(request.audio) or "audio" in (request.modalities or ()):
        raise InvalidRequest("Audio is not supported by this server.", param="modalities")
    if _is_given(request.web_search_options):
        raise InvalidRequest(
            "Web search is not supported by this server.", param="web_search_options"
        )
    if _is_given(request.functions):
        raise InvalidRequest(
            "Unsupported parameter: 'functions' is not served here; give them as 'tools'.",
            param="functions",
            code="unsupported_parameter",
        )
    form = request.response_format
    if form is not None and form.type == "json_schema" and form.json_schema is None:
        raise _missing("response_format.json_schema")
    if form is not None and form.json_schema is not None:
        _check(form.json_schema.schema_, "response_format.json_schema.schema")


def offer_of(request: ChatRequest) -> Offer:
    """Read `tools` and `tool_choice`. Raises InvalidRequest for a tool that is no function."""
    choice = request.tool_choice
    if not request.tools:
        if choice in (None, "none", "auto"):
            return Offer()
        raise InvalidRequest(
            "'tool_choice' needs 'tools' from which to choose.", param="tool_choice"
        )
    names = {_name(each.type, each.function, f"tools[{i}]") for i, each in enumerate(request.tools)}
    for i, each in enumerate(request.tools):
        if each.function is not None:
            _check(each.function.parameters, f"tools[{i}].function.parameters")
    if not isinstance(choice, ToolChoice):
        return Offer(strict=choice == "required")
    if choice.type != "allowed_tools":
        _known(_name(choice.type, choice.function, "tool_choice"), names, "tool_choice")
        return Offer(strict=True)
    allowed = choice.allowed_tools
    if allowed is None:
        raise _missing("tool_choice.allowed_tools")
    at = "tool_choice.allowed_tools.tools"
    if not allowed.tools:
        raise InvalidRequest(f"Invalid '{at}': it must not be empty.", param=at)
    chosen = [
        _known(_name(each.type, each.function, f"{at}[{i}]"), names, f"{at}[{i}]")
        for i, each in enumerate(allowed.tools)
    ]
    return Offer(allowed.mode == "required", frozenset(chosen), allowed.mode)


def _check(schema: dict[str, Raw] | bool | None, at: str) -> None:
    if isinstance(schema, dict) and has_references(raw := msgspec.json.encode(schema)):
        refuse_endless(msgspec.json.decode(raw), at)


def _name(kind: str, function: Any, at: str) -> str:
    if kind != "function":
        raise InvalidRequest(
            f"Invalid value: '{kind[:100]}'. Supported values are: 'function'.",
            param=f"{at}.type",
        )
    if function is None:
        raise _missing(f"{at}.function")
    return str(function.name)


def _known(name: str, names: set[str], at: str) -> str:
    if name not in names:
        raise InvalidRequest(
            f"Tool choice '{name[:100]}' not found in the 'tools' parameter.", param=at
        )
    return name


def _missing(param: str) -> InvalidRequest:
    return InvalidRequest(
        f"Missing required parameter: '{param}'.", param=param, code="missing_required_parameter"
    )


def _is_given(value: Raw | UnsetType) -> bool:
    return value is not UNSET and bytes(value) not in _NOTHING
