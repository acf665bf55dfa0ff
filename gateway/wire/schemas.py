"""Does a schema lead back to itself before it asks for anything?

Such a schema allows no text at all. SGLang 0.5.23 does not refuse it: its scheduler dies of the
first token that it may not choose ("probability tensor contains either `inf`, `nan`"), and with it
every call on the replica. A reference inside of an object or an array, as trees have it, is none.
"""

from typing import Any
from urllib.parse import unquote

from gateway.errors import InvalidRequest

_ALTERNATIVES = ("allOf", "anyOf", "oneOf")


def has_references(raw: bytes) -> bool:
    """Whether JSON may hold a reference; its name may be written with an escape."""
    return b"$ref" in raw or b"\\u" in raw


def refuse_endless(schema: Any, at: str) -> None:
    """Raise InvalidRequest where a part of a schema, which is at `at`, leads to itself alone."""
    known: set[int] = set()
    waiting = [schema]
    while waiting:
        node = waiting.pop()
        if isinstance(node, list):
            waiting += node
        elif isinstance(node, dict):
            _follow(node, schema, known, at)
            waiting += node.values()


def _follow(node: dict[str, Any], root: Any, known: set[int], at: str) -> None:
    way: set[int] = set()
    following: Any = node
    while isinstance(following, dict) and id(following) not in known:
        if id(following) in way:
            raise InvalidRequest(
                f"Invalid schema for '{at}': a '$ref' leads back to itself, so that nothing can "
                "satisfy it.",
                param=at,
            )
        way.add(id(following))
        following = _next(following, root)
    known |= way


def _next(node: dict[str, Any], root: Any) -> Any:
    """Give the schema for which a node only stands; None where it says something itself."""
    reference = node.get("$ref")
    if isinstance(reference, str):
        return _resolved(reference, root)
    for name in _ALTERNATIVES:
        parts = node.get(name)
        if isinstance(parts, list) and len(parts) == 1:
            return parts[0]
    return None


def _resolved(reference: str, root: Any) -> Any:
    if not reference.startswith("#"):
        return None  # the engine's to refuse, as what is not there
    found = root
    for part in reference[1:].split("/")[1:]:
        name = unquote(part).replace("~1", "/").replace("~0", "~")
        if isinstance(found, list) and name.isdecimal() and int(name) < len(found):
            found = found[int(name)]
        else:
            found = found.get(name) if isinstance(found, dict) else None
    return found
