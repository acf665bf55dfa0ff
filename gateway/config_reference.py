"""Which settings are there? The tables of docs/configuration.md, written from the models."""

import typing
from collections.abc import Iterator, Mapping
from enum import Enum
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Any

from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from gateway.settings import Settings


def reference() -> str:
    """Give a Markdown table per section."""
    return "\n".join(_tables(Settings, ""))


def _tables(section: type[BaseModel], path: str) -> Iterator[str]:
    title = f"`{path}`" if path else "The top level"
    yield f"### {title}\n"
    text = (section.__doc__ or "").strip().splitlines()[0]
    yield f"{text}\n"
    yield "| key | type | default | meaning |"
    yield "| --- | --- | --- | --- |"
    below: list[tuple[type[BaseModel], str]] = []
    for name, info in section.model_fields.items():
        inner, suffix = _inner(info.annotation)
        if inner is not None:
            below.append((inner, f"{path}.{name}{suffix}" if path else f"{name}{suffix}"))
        kind = "section" if inner is not None and not suffix else _kind(info.annotation)
        yield f"| `{name}` | {kind} | {_default(name, info)} | {info.description} |"
    yield ""
    for inner, at in below:
        yield from _tables(inner, at)


def _inner(annotation: Any) -> tuple[type[BaseModel] | None, str]:
    """Find the section in a field's type, and how its path goes on."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation, ""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return _inner(arguments[1])[0], ".<name>"
    if origin is tuple:
        return _inner(arguments[0])[0], "[]"
    if type(None) in arguments:
        return _inner(next(each for each in arguments if each is not type(None)))
    return None, ""


def _kind(annotation: Any) -> str:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return "mapping"
    if origin is tuple:
        return "list"
    if origin is typing.Literal:
        return ", ".join(f"`{each}`" for each in arguments)
    if annotation == IPv4Network | IPv6Network:
        return "network"
    if arguments:  # optional, or annotated
        return _kind(next(each for each in arguments if each is not type(None)))
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return ", ".join(f"`{each.value}`" for each in annotation)
    names = {int: "integer", float: "number", bool: "boolean", str: "text", Path: "path"}
    return "secret" if annotation is SecretStr else names.get(annotation, str(annotation))


def _default(name: str, info: FieldInfo) -> str:
    default = info.default
    if default is PydanticUndefined:
        return "required"
    if default is None:
        return "unset"
    if isinstance(default, BaseModel):
        return "see below"
    if isinstance(default, Mapping):
        return "see below" if name == "classes" else "none"
    if isinstance(default, tuple):
        return "none"
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    if isinstance(default, Enum):
        return f"`{default.value}`"
    if name.endswith("_bytes"):
        return f"`{default // 2**20} MiB`" if default % 2**20 == 0 else f"`{default // 1024} KiB`"
    return f"`{default:g}`" if isinstance(default, float) else f"`{default}`"
