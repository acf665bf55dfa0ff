"""Under which name does the engine know a tool of a namespace?

A `namespace` groups functions and custom tools, as coding agents do with those of one server. The
engine knows flat names alone, so it hears `namespace__name`, and its calls are told apart again.
"""

from collections.abc import Mapping
from typing import Any

Tool = dict[str, Any]
Members = Mapping[str, tuple[str, str]]  # by the engine's name: the namespace, the tool's own name

NAMESPACE = "namespace"


def engine_name(namespace: str | None, name: str) -> str:
    """Give the flat name."""
    return name if not namespace else f"{namespace}__{name}"


def flat(tools: list[Tool]) -> list[tuple[str, Tool]]:
    """Give all tools that run here under the engine's names, each with its place in the request.

    What a namespace says of itself goes in front of what its tools say of themselves.
    """
    found: list[tuple[str, Tool]] = []
    for index, tool in enumerate(tools):
        at = f"tools[{index}]"
        if tool["type"] != NAMESPACE:
            found.append((at, tool))
            continue
        for place, inner in enumerate(tool["tools"]):
            told = [each for each in (tool["description"], inner["description"]) if each]
            name = engine_name(tool["name"], inner["name"])
            described = {**inner, "name": name, "description": "\n\n".join(told) or None}
            found.append((f"{at}.tools[{place}]", described))
    return found


def members(tools: list[Tool]) -> dict[str, tuple[str, str]]:
    """Give the tools of namespaces by their flat names."""
    return {
        engine_name(tool["name"], inner["name"]): (tool["name"], inner["name"])
        for tool in tools
        if tool["type"] == NAMESPACE
        for inner in tool["tools"]
    }
