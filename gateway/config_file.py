"""What does a YAML file say, and on which line does it say it?"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

KeyPath = tuple[str | int, ...]

_VARIABLE = re.compile(r"\$\$|\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^}]*))?\}|\$\{")
_PLAIN_TAGS = frozenset({"tag:yaml.org,2002:map", "tag:yaml.org,2002:seq"})
_MAX_FILE_BYTES = 16 * 1024 * 1024


class FileError(Exception):
    """The file cannot be read as YAML; the message names file and line."""


@dataclass(frozen=True, slots=True)
class Document:
    """The plain values of a file, the line of every key, and which values name no variable.

    `lines` counts from 1. `literals` holds the paths of strings that stand in the file as they
    are: a secret must not.
    """

    source: str
    value: Mapping[str, Any] = field(default_factory=dict)
    lines: Mapping[KeyPath, int] = field(default_factory=dict)
    literals: frozenset[KeyPath] = frozenset()

    def place(self, path: KeyPath) -> str:
        """Give `file:line` of the key, or of the nearest key above it that the file has."""
        for end in range(len(path), -1, -1):
            if (line := self.lines.get(path[:end])) is not None:
                return f"{self.source}:{line}"
        return self.source


def read(path: Path, environ: Mapping[str, str]) -> Document:
    """Read a YAML mapping; `${NAME}` and `${NAME:-default}` in its values are filled in.

    `$$` stands for one `$`. Raises FileError for what is not YAML, for a key that is given twice
    and for a variable that is not set.
    """
    try:
        if path.stat().st_size > _MAX_FILE_BYTES:
            raise FileError(f"{path}: the file is larger than {_MAX_FILE_BYTES} bytes")
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise FileError(f"{path}: cannot be read: {_reason(error)}") from error
    return parse(text, str(path), environ)


def parse(text: str, source: str, environ: Mapping[str, str]) -> Document:
    """Read a YAML mapping from text; `source` is how messages call it."""
    reader = _Reader(source, environ)
    try:
        loader = yaml.SafeLoader(text)
        try:
            root = loader.get_single_node()
            value = {} if root is None else reader.value_of(root, (), loader)
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = source if mark is None else f"{source}:{mark.line + 1}"
        raise FileError(f"{place}: not YAML: {error.problem or error.context}") from error
    except yaml.YAMLError as error:
        raise FileError(f"{source}: not YAML: {error}") from error
    if value is None:
        value = {}
    if not isinstance(value, dict):
        raise FileError(f"{source}:1: found {type(value).__name__}; allowed: a mapping of keys")
    return Document(source, value, reader.lines, frozenset(reader.literals))


def interpolate(text: str, lookup: Callable[[str], str | None]) -> tuple[str, bool]:
    """Fill in the variables of a text; give it, and whether it named any.

    Raises KeyError with the name of a variable that is not set, ValueError for an unclosed `${`.
    """
    named = False

    def fill(match: re.Match[str]) -> str:
        nonlocal named
        if match.group() == "$$":
            return "$"
        name = match.group("name")
        if name is None:
            raise ValueError("write ${NAME} or ${NAME:-default}, or $$ for a plain $")
        named = True
        value = lookup(name) or match.group("default")
        if value is None:
            raise KeyError(name)
        return value

    return _VARIABLE.sub(fill, text), named


class _Reader:
    def __init__(self, source: str, environ: Mapping[str, str]) -> None:
        self.lines: dict[KeyPath, int] = {}
        self.literals: set[KeyPath] = set()
        self._source = source
        self._environ = environ
        self._open: set[int] = set()  # nodes being read: an alias to one of them never ends

    def value_of(self, node: yaml.Node, path: KeyPath, loader: yaml.SafeLoader) -> Any:
        self.lines.setdefault(path, node.start_mark.line + 1)
        if id(node) in self._open:
            raise self._error(node, "an alias that contains itself")
        self._open.add(id(node))
        try:
            match node:
                case yaml.CollectionNode() if node.tag not in _PLAIN_TAGS:
                    raise self._error(node, f"found the tag {node.tag}; allowed: plain YAML")
                case yaml.MappingNode():
                    return dict(self._pairs(node, path, loader))
                case yaml.SequenceNode():
                    items = enumerate(node.value)
                    return [self.value_of(item, (*path, n), loader) for n, item in items]
                case _:
                    return self._scalar(node, path, loader)
        finally:
            self._open.discard(id(node))

    def _pairs(
        self, node: yaml.MappingNode, path: KeyPath, loader: yaml.SafeLoader
    ) -> Iterator[tuple[str, Any]]:
        seen: dict[str, int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise self._error(key, "a key must be a plain text")
            if key.value in seen:
                raise self._error(key, f"the key {key.value!r} is on line {seen[key.value]} too")
            seen[key.value] = key.start_mark.line + 1
        loader.flatten_mapping(node)  # `<<`: what is merged comes first, so own keys win
        for key, value in node.value:
            at = (*path, str(key.value))
            self.lines[at] = key.start_mark.line + 1
            yield str(key.value), self.value_of(value, at, loader)

    def _scalar(self, node: yaml.Node, path: KeyPath, loader: yaml.SafeLoader) -> Any:
        try:
            value = loader.construct_object(node)
        except ValueError as error:  # such as the date 2026-02-31
            raise self._error(node, str(error)) from error
        if not isinstance(value, str):
            return value
        try:
            text, named = interpolate(value, self._environ.get)
        except KeyError as error:
            name = error.args[0]
            raise self._error(node, f"the environment variable {name} is not set") from error
        except ValueError as error:
            raise self._error(node, f"found {value!r}; {error}") from error
        if not named:
            self.literals.add(path)
        return text

    def _error(self, node: yaml.Node, problem: str) -> FileError:
        return FileError(f"{self._source}:{node.start_mark.line + 1}: {problem}")


def _reason(error: OSError | UnicodeDecodeError) -> str:
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return "not UTF-8"
