"""Which tools does the engine hear of, and what is refused before it?"""

from typing import Any

import msgspec
import pytest

from gateway.errors import InvalidRequest
from gateway.wire.body import fields_of
from gateway.wire.chat import Offer, offer_of
from gateway.wire.openai import ChatRequest, decode


def tool(name: str, **more: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, **more}}


def allowed(mode: str, *names: str) -> dict[str, Any]:
    tools = [tool(name) for name in names]
    return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": tools}}


def told(choice: Any, *tools: dict[str, Any]) -> dict[str, Any]:
    """Give what the engine hears: its tools and its choice."""
    body = msgspec.json.encode(
        {"model": "m", "messages": [{"role": "user"}], "tools": tools, "tool_choice": choice}
    )
    fields = offer_of(decode(body, ChatRequest)).told(fields_of(body))
    found: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(fields))
    return {name: found[name] for name in ("tools", "tool_choice")}


def test_allowed_tools_are_the_only_ones_that_are_offered() -> None:
    heard = told(allowed("auto", "b"), tool("a"), tool("b", parameters={"type": "object"}))
    assert heard == {"tools": [tool("b", parameters={"type": "object"})], "tool_choice": "auto"}


def test_allowed_tools_of_which_one_is_required_are_strict() -> None:
    heard = told(allowed("required", "a", "b"), tool("a"), tool("b", strict=False), tool("c"))
    assert heard["tools"] == [tool("a", strict=True), tool("b", strict=False)]
    assert heard["tool_choice"] == "required"


def test_a_named_tool_is_strict_and_stays_named() -> None:
    choice = tool("a")
    assert told(choice, tool("a")) == {"tools": [tool("a", strict=True)], "tool_choice": choice}


@pytest.mark.parametrize("choice", [None, "auto", "none"])
def test_a_free_choice_changes_nothing(choice: str | None) -> None:
    body = {"model": "m", "messages": [{"role": "user"}], "tools": [tool("a")]}
    request = decode(msgspec.json.encode({**body, "tool_choice": choice}), ChatRequest)
    assert offer_of(request) == Offer()
    assert offer_of(request).is_plain


@pytest.mark.parametrize(
    ("choice", "param"),
    [
        (tool("z"), "tool_choice"),
        ({"type": "function"}, "tool_choice.function"),
        ({"type": "custom", "custom": {"name": "a"}}, "tool_choice.type"),
        ({"type": "allowed_tools"}, "tool_choice.allowed_tools"),
        (allowed("auto"), "tool_choice.allowed_tools.tools"),
        (allowed("auto", "a", "z"), "tool_choice.allowed_tools.tools[1]"),
    ],
)
def test_a_choice_that_cannot_be_made_is_named(choice: Any, param: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        told(choice, tool("a"))
    assert refused.value.param == param
