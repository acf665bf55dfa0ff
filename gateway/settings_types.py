"""Of which kinds may a setting be, and where does a secret come from?"""

import ipaddress
import os
import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, TypeVar
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    SerializerFunctionWrapHandler,
    StringConstraints,
    WrapSerializer,
)
from pydantic_core import PydanticCustomError

MIB = 1024 * 1024
_SIZES = {"": 1, "b": 1, "kib": 1024, "mib": MIB, "gib": 1024 * MIB, "kb": 10**3, "mb": 10**6}

K = TypeVar("K")
V = TypeVar("V")


def _freeze(value: Mapping[K, V]) -> Mapping[K, V]:
    return MappingProxyType(dict(value))


def _thaw(value: Mapping[str, Any], serialise: SerializerFunctionWrapHandler) -> Any:
    return serialise(dict(value))


def _size(value: object) -> object:
    """Turn `64 MiB` into bytes; leave the rest to the model."""
    if isinstance(value, str) and (found := re.fullmatch(r"\s*(\d+)\s*([A-Za-z]*)\s*", value)):
        unit = _SIZES.get(found[2].lower())
        if unit is not None:
            return int(found[1]) * unit
    return value


def _base_url(value: str) -> str:
    parts = urlsplit(value)
    try:
        sound = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        sound = False
    if not sound or parts.query or parts.fragment or parts.username or parts.password:
        raise PydanticCustomError("base_url", "allowed: http://host:port, without query or login")
    return value.rstrip("/")


FrozenMap = Annotated[Mapping[K, V], AfterValidator(_freeze), WrapSerializer(_thaw)]
Bytes = Annotated[int, BeforeValidator(_size)]
Port = Annotated[int, Field(ge=0, le=65_535)]
Seconds = Annotated[float, Field(gt=0, le=10_000_000, allow_inf_nan=False)]
BaseUrl = Annotated[str, AfterValidator(_base_url)]
Name = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=r"^[!-~]+$")]


def _network(value: object) -> object:
    """Turn `10.0.0.0/8` or an address into a network."""
    if not isinstance(value, str):
        return value
    try:
        return ipaddress.ip_network(value.strip())
    except ValueError:
        raise PydanticCustomError(
            "network", "allowed: an address, or a network as 10.0.0.0/8"
        ) from None


Network = Annotated[
    ipaddress.IPv4Network | ipaddress.IPv6Network,
    BeforeValidator(_network),
    PlainSerializer(str),
]


class Section(BaseModel):
    """A group of settings: frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


def is_loopback(host: str) -> bool:
    """Whether an address can be reached from this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def read_secret(data: Any, name: str, context: Mapping[str, Any] | None) -> Any:
    """Fill in the secret `name` from `name_file` or `name_env`, of which one may be given.

    `context` carries `environ` and `directory`, from which a relative file is reached.
    """
    if not isinstance(data, Mapping):
        return data
    given = [key for key in (name, f"{name}_file", f"{name}_env") if data.get(key) is not None]
    if len(given) > 1:
        raise PydanticCustomError(
            "secret_twice",
            "allowed: one of {names}",
            {"field": given[1], "names": " or ".join(given)},
        )
    if not given or given[0] == name:
        return data
    source, value = given[0], str(data[given[0]])
    context = context or {}
    if source.endswith("_env"):
        secret = context.get("environ", os.environ).get(value, "")
        problem = "the environment variable {value} is not set"
    else:
        secret = _content(Path(context.get("directory", ".")) / value)
        problem = "the file {value} is missing, empty or not readable"
    if not secret:
        raise PydanticCustomError("secret_missing", problem, {"field": source, "value": value})
    return {**data, name: secret}


def _content(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return ""
