"""How is a fault in the settings told: where it stands, what was found, what is allowed?"""

import difflib
import re
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml
from pydantic import BaseModel
from pydantic_core import ErrorDetails

from gateway.config_file import Document, KeyPath
from gateway.settings import Settings


@dataclass(frozen=True, slots=True)
class Origins:
    """Where each value was said; `others` are places beside the file."""

    document: Document
    others: dict[KeyPath, str] = field(default_factory=dict)

    def place(self, path: KeyPath) -> str:
        """Name the variable, the flag, or file and line."""
        for end in range(len(path), 0, -1):
            if (found := self.others.get(path[:end])) is not None:
                return found
        return self.document.place(path)


def dotted(path: Sequence[str | int]) -> str:
    """Write a key path as people read it: models.llama2-70b.replicas[0].url."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f"{'.' if text else ''}{part}"
    return text or "the file"


def tell(error: ErrorDetails, tree: object, origins: Origins) -> str:
    """Say one of pydantic's errors in our form."""
    context = error.get("ctx", {})
    at: KeyPath = tuple(error["loc"])
    if at and at[-1] == "[key]":
        at = at[:-1]
    if field_name := context.get("field"):
        at = (*at, *(int(p) if p.isdigit() else p for p in str(field_name).split(".")))
    if error["type"] == "extra_forbidden":
        return f"{origins.place(at)}: {dotted(at)}: {_unknown(at)}"
    if error["type"] == "missing":
        return f"{origins.place(at[:-1])}: {dotted(at)}: missing; {_description(at)}"
    found = context["found"] if "found" in context else _at(tree, at, error["input"])
    shown = "" if _is_secret(at) else f"found {_short(found)}; "
    return f"{origins.place(at)}: {dotted(at)}: {shown}{_allowed(error)}"


def _unknown(at: KeyPath) -> str:
    section = section_at(at[:-1])
    known = [] if section is None else list(section.model_fields)
    near = difflib.get_close_matches(str(at[-1]), known, n=1)
    hint = f" did you mean {near[0]!r}?" if near else ""
    return f"unknown key;{hint} allowed: {', '.join(sorted(known))}"


def _description(at: KeyPath) -> str:
    section = section_at(at[:-1])
    info = None if section is None else section.model_fields.get(str(at[-1]))
    return (info.description if info is not None else None) or "it must be given"


def _allowed(error: ErrorDetails) -> str:
    kinds = {
        "int": "a whole number",
        "float": "a number",
        "bool": "true or false",
        "string": "a text",
        "model": "a mapping of keys",
        "mapping": "a mapping of keys",
        "tuple": "a list",
        "path": "a path",
        "secret": "a text",
    }
    kind, _, what = error["type"].partition("_")
    context = error.get("ctx", {})
    if kind in kinds and what in {
        "type",
        "parsing",
        "from_float",
        "parsing_size",
        "attributes_type",
    }:
        return f"allowed: {kinds[kind]}"
    match error["type"]:
        case "enum" | "literal_error":
            return f"allowed: {context['expected']}"
        case "string_pattern_mismatch" if "redis" in str(context.get("pattern")):
            return "allowed: redis://host:port/db, rediss://... or unix:///path"
        case "string_pattern_mismatch":
            return "allowed: printable ASCII without blanks"
    message = error["msg"]
    if message.startswith("allowed") or "field" in context:
        return message
    return "allowed: " + message.removeprefix("Input should be ").removeprefix("Value error, ")


def _at(tree: object, at: KeyPath, fallback: object) -> object:
    for key in at:
        try:
            tree = tree[key]  # type: ignore[index]
        except (KeyError, IndexError, TypeError):
            return fallback
    return tree


def _is_secret(at: KeyPath) -> bool:
    return bool(at) and at[-1] in {"api_key", "admin_key"}


def _short(value: object) -> str:
    if isinstance(value, str):
        text = repr(masked(value))
    else:
        text = (
            yaml.safe_dump(value, default_flow_style=True, width=10_000)
            if isinstance(value, (dict, list))
            else repr(value)
        )
        text = text.removesuffix("\n...\n").strip()
    return text if len(text) <= 80 else f"{text[:77]}..."


def masked(url: str) -> str:
    """Hide the password in a URL."""
    return re.sub(r"(?<=://)([^/@\s]*):[^/@\s]*@", r"\1:***@", url)


def section_at(path: Sequence[str | int]) -> type[BaseModel] | None:
    """Find the group of settings that lies at a path."""
    found: type[BaseModel] | None = Settings
    inside: object = Settings
    for key in path:
        match inside:
            case type() if issubclass(inside, BaseModel):
                info = inside.model_fields.get(str(key))
                inside = None if info is None else _element(info.annotation)
            case ("each", element):
                inside = element
            case _:
                return None
        found = inside if isinstance(inside, type) and issubclass(inside, BaseModel) else None
    return found


def _element(annotation: Any) -> object:
    """Reduce a field's type to a section, to ("each", section), or to what it is."""
    if hasattr(annotation, "__metadata__"):
        return _element(annotation.__origin__)
    arguments = typing.get_args(annotation)
    origin = typing.get_origin(annotation)
    if origin is tuple:
        return ("each", arguments[0])
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return ("each", arguments[1])
    inner = [each for each in arguments if each is not type(None)]
    return _element(inner[0]) if len(inner) == 1 else annotation
