"""What is the smallest JSON value that a schema accepts?"""

from collections.abc import Mapping
from typing import Any

_DEPTH = 12


def minimal(schema: object, root: Mapping[str, Any] | None = None, depth: int = 0) -> Any:
    """Give a small instance of a JSON schema: required properties only, first alternative, least
    length.

    Understands what grammars for decoding understand: type, enum, const, properties, items,
    prefixItems, minItems, minLength, minimum, multipleOf, anyOf, oneOf, allOf and local $ref.
    Anything else is ignored. `root` resolves references.
    """
    if not isinstance(schema, Mapping) or depth > _DEPTH:
        return {} if schema is not None and not isinstance(schema, bool) else None
    root = schema if root is None else root
    if "const" in schema:
        return schema["const"]
    if schema.get("enum"):
        return schema["enum"][0]
    if isinstance(schema.get("$ref"), str):
        return minimal(_resolve(schema["$ref"], root), root, depth + 1)
    for word in ("anyOf", "oneOf"):
        if schema.get(word):
            return minimal(schema[word][0], root, depth + 1)
    if schema.get("allOf"):
        merged: dict[str, Any] = {}
        for part in schema["allOf"]:
            merged = _merge(merged, _dereferenced(part, root))
        return minimal(
            _merge(merged, {k: v for k, v in schema.items() if k != "allOf"}), root, depth + 1
        )
    return _typed(schema, root, depth)


def _typed(schema: Mapping[str, Any], root: Mapping[str, Any], depth: int) -> Any:
    kind = schema.get("type")
    if isinstance(kind, list):
        kind = kind[0] if kind else None
    if kind is None:
        kind = "object" if "properties" in schema else "array" if "items" in schema else "object"
    match kind:
        case "string":
            return "a" * int(schema.get("minLength", 0)) or "ok"[: int(schema.get("maxLength", 2))]
        case "integer" | "number":
            return _number(schema, integer=kind == "integer")
        case "boolean":
            return True
        case "null":
            return None
        case "array":
            return _array(schema, root, depth)
        case _:
            properties = schema.get("properties") or {}
            return {
                name: minimal(properties.get(name, {"type": "string"}), root, depth + 1)
                for name in schema.get("required") or ()
            }


def _number(schema: Mapping[str, Any], *, integer: bool) -> float | int:
    least: float = schema.get("minimum", 0)
    if "exclusiveMinimum" in schema:
        least = schema["exclusiveMinimum"] + 1
    if "maximum" in schema and least > schema["maximum"]:
        least = schema["maximum"]
    step = schema.get("multipleOf")
    if step:
        least = -(-least // step) * step
    return int(least) if integer else least


def _array(schema: Mapping[str, Any], root: Mapping[str, Any], depth: int) -> list[Any]:
    first = [minimal(s, root, depth + 1) for s in schema.get("prefixItems") or ()]
    lacking = max(0, int(schema.get("minItems", 0)) - len(first))
    return first + [minimal(schema.get("items", {}), root, depth + 1) for _ in range(lacking)]


def _resolve(reference: str, root: Mapping[str, Any]) -> Any:
    found: Any = root
    for part in reference.removeprefix("#").strip("/").split("/"):
        found = found.get(part) if isinstance(found, Mapping) and part else found
    return found


def _dereferenced(part: Any, root: Mapping[str, Any]) -> Mapping[str, Any]:
    if isinstance(part, Mapping) and isinstance(part.get("$ref"), str):
        part = _resolve(part["$ref"], root)
    return part if isinstance(part, Mapping) else {}


def _merge(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    merged = {**one, **other}
    merged["properties"] = {**one.get("properties", {}), **other.get("properties", {})}
    merged["required"] = [*one.get("required", ()), *other.get("required", ())]
    if not merged["properties"]:
        del merged["properties"]
    return merged
