"""Which settings hold, given a file, an environment and flags, and what is wrong with them?

What stands later wins: the defaults, the file, REDIS_URL, the file that REDIS_URL_FILE names,
SLUICE_* variables, flags. A variable's name is the key path in capitals joined by `__`:
SLUICE_LIMITS__BODY_BYTES sets limits.body_bytes.
"""

import re
import textwrap
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml
from pydantic import SecretStr, ValidationError

from gateway.config_faults import Origins, dotted, masked, section_at, tell
from gateway.config_file import Document, FileError, KeyPath, parse, read
from gateway.settings import Settings

PREFIX = "SLUICE_"
# Variables of ours that are no settings: read before there are any, or a client's own.
NOT_SETTINGS = frozenset(
    {"SLUICE_API_KEY", "SLUICE_CACHE_DIR", "SLUICE_TORCH_INDEX", "SLUICE_CONFIG"}
)
# Kubernetes tells every container about a Service named `sluice` by variables of these names.
_KUBERNETES = re.compile(r"SLUICE_SERVICE_(HOST|PORT)(_\w+)?|SLUICE_PORT_\d+_\w+")
_SHOWN_ERRORS = 20


class ConfigError(Exception):
    """The settings cannot be used: one line per fault, with its place and what is allowed."""


def load(
    path: Path | None,
    environ: Mapping[str, str],
    flags: Mapping[str, object] | None = None,
    *,
    defaults: Mapping[str, Any] | None = None,
) -> Settings:
    """Read the settings once. `flags` are top-level keys with values of a command line.

    `defaults` is a tree that the file is laid over: what a command sets unless somebody else does.
    Raises ConfigError with a line per fault: place, key, what was found and what is allowed.
    """
    try:
        document = Document("the settings") if path is None else read(path, environ)
        tree = _laid_over(defaults or {}, document.value)
        origins = Origins(document)
        for name, url in _store_urls(environ):
            _put(tree, ("redis_url",), url)
            origins.others["redis_url",] = name
        for name, at, value in _variables(environ):
            _put(tree, at, value)
            origins.others[at] = name
    except FileError as error:
        raise ConfigError(str(error)) from error
    for key, value in (flags or {}).items():
        tree[key] = value
        origins.others[key,] = "--" + key.replace("_", "-")
    faults = [_secret_fault(document, at) for at in _secrets_in_file(document)]
    directory = path.parent if path is not None else Path()
    try:
        settings = Settings.model_validate(
            tree, context={"environ": environ, "directory": directory}
        )
    except ValidationError as error:
        faults += [tell(each, tree, origins) for each in error.errors(include_url=False)]
        settings = None
    if settings is None or faults:
        raise ConfigError("\n".join(dict.fromkeys(faults[:_SHOWN_ERRORS])))
    return settings


def _laid_over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Merge two trees into a new one, mapping by mapping; the upper one wins."""
    merged = {**below}
    for key, value in above.items():
        under = merged.get(key)
        if isinstance(value, Mapping):
            merged[key] = _laid_over(under if isinstance(under, Mapping) else {}, value)
        else:
            merged[key] = value
    return {
        key: _laid_over(value, {}) if isinstance(value, Mapping) else value
        for key, value in merged.items()
    }


def _put(tree: dict[str, Any], path: KeyPath, value: object) -> None:
    for key in path[:-1]:
        below = tree.get(str(key))
        if not isinstance(below, dict):
            below = tree[str(key)] = {}
        tree = below
    tree[str(path[-1])] = value


def _store_urls(environ: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Give what names the store; a file keeps the password out of the process's environment."""
    if url := environ.get("REDIS_URL"):
        yield "REDIS_URL", url
    if named := environ.get("REDIS_URL_FILE"):
        try:
            url = Path(named).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise FileError(f"REDIS_URL_FILE: {named} cannot be read: {error}") from error
        if not url:
            raise FileError(f"REDIS_URL_FILE: {named} is empty")
        yield "REDIS_URL_FILE", url


def _variables(environ: Mapping[str, str]) -> Iterator[tuple[str, KeyPath, object]]:
    """Give each SLUICE_* variable with its key path and value; the outer keys come first."""
    for name in sorted(environ):
        if not name.startswith(PREFIX) or name in NOT_SETTINGS or _KUBERNETES.fullmatch(name):
            continue
        value = environ[name]
        if not value or (name == "SLUICE_PORT" and value.startswith("tcp://")):
            continue  # an empty variable sets nothing; the address is from Kubernetes, too
        path = tuple(part.lower() for part in name[len(PREFIX) :].split("__"))
        yield name, path, _value_of(path, value, name, environ)


def _value_of(path: KeyPath, text: str, name: str, environ: Mapping[str, str]) -> object:
    """Read a whole section or list from one variable as YAML (or JSON); a scalar as it is."""
    if section_at(path) is None and text.lstrip()[:1] not in {"[", "{"}:
        return text
    return parse("value:\n" + textwrap.indent(text, "  "), name, environ).value["value"]


def _secrets_in_file(document: Document) -> list[KeyPath]:
    """Find secrets that stand in the file in plain words."""
    found = []
    for at in document.literals:
        section = section_at(at[:-1])
        info = None if section is None else section.model_fields.get(str(at[-1]))
        if info is None:
            continue
        is_secret = SecretStr in (info.annotation, *typing.get_args(info.annotation))
        if is_secret or (at == ("redis_url",) and urlsplit(document.value["redis_url"]).password):
            found.append(at)
    return sorted(found, key=document.place)


def _secret_fault(document: Document, at: KeyPath) -> str:
    key = dotted(at)
    ways = f"${{VARIABLE}}, or the variable {PREFIX}{'__'.join(map(str, at)).upper()}"
    if at != ("redis_url",):
        ways += f", or {at[-1]}_file"
    return f"{document.place(at)}: {key}: found a secret in plain words; allowed: {ways}"


def effective(settings: Settings) -> str:
    """Write the settings as YAML with every secret masked."""
    values = settings.model_dump(mode="json")
    if values["redis_url"] is not None:
        values["redis_url"] = masked(values["redis_url"])
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=100)
