"""Is a field of a request what the API says it is, and if not, how is the caller told?"""

import secrets
from collections.abc import Callable, Collection
from typing import Any

from gateway.errors import InvalidRequest

NewId = Callable[[str], str]

_WORDS = {
    str: "a string",
    bool: "a boolean",
    int: "an integer",
    float: "a number",
    list: "an array",
    dict: "an object",
    type(None): "null",
}


def new_id(prefix: str) -> str:
    """Make an id such as `msg_` and 48 hexadecimal digits, 192 random bits."""
    return f"{prefix}_{secrets.token_hex(24)}"


def wrong_type(at: str, wanted: str, found: Any) -> InvalidRequest:
    """Say that a field has another type than it must have."""
    what = _WORDS.get(type(found), "something else")
    return InvalidRequest(
        f"Invalid type for '{at}': expected {wanted}, but got {what} instead.",
        param=at,
        code="invalid_type",
    )


def wrong_value(at: str, found: str, allowed: Collection[str]) -> InvalidRequest:
    """Say that a field has a value which is none of those allowed."""
    names = ", ".join(f"'{name}'" for name in allowed)
    return InvalidRequest(
        f"Invalid value: '{found[:100]}'. Supported values are: {names}.", param=at
    )


def missing(at: str) -> InvalidRequest:
    """Say that a field is not there."""
    return InvalidRequest(
        f"Missing required parameter: '{at}'.", param=at, code="missing_required_parameter"
    )


def text(item: dict[str, Any], name: str, at: str) -> str:
    """Give a field that must be a string."""
    found = item.get(name)
    if isinstance(found, str):
        return found
    if found is None:
        raise missing(f"{at}.{name}")
    raise wrong_type(f"{at}.{name}", "a string", found)


def optional_text(item: dict[str, Any], name: str, at: str) -> str | None:
    """Give a field that may be a string or absent."""
    found = item.get(name)
    if found is None or isinstance(found, str):
        return found
    raise wrong_type(f"{at}.{name}", "a string", found)


def optional_object(item: dict[str, Any], name: str, at: str) -> dict[str, Any] | None:
    """Give a field that may be an object or absent."""
    found = item.get(name)
    if found is None or isinstance(found, dict):
        return found
    raise wrong_type(f"{at}.{name}", "an object", found)


def optional_flag(item: dict[str, Any], name: str, at: str) -> bool | None:
    """Give a field that may be a boolean or absent."""
    found = item.get(name)
    if found is None or isinstance(found, bool):
        return found
    raise wrong_type(f"{at}.{name}", "a boolean", found)


def objects(found: Any, at: str) -> list[tuple[str, dict[str, Any]]]:
    """Give the objects of an array, each with its place."""
    if not isinstance(found, list):
        raise wrong_type(at, "an array", found)
    places = [(f"{at}[{index}]", each) for index, each in enumerate(found)]
    for place, each in places:
        if not isinstance(each, dict):
            raise wrong_type(place, "an object", each)
    return places
