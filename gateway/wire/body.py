"""How does a caller's body become the engine's without being rebuilt through a closed type?

What the caller wrote stays as it was, byte for byte; the fields that are ours are put in front.
Only a body that names one of our fields itself is taken apart, and even then each value keeps its
bytes.
"""

import re
from collections.abc import Collection, Mapping
from typing import Any

import msgspec
import orjson
from msgspec import Struct

# What decoding raises where there is no JSON: a part that was skipped before may be none.
UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_OPENING = re.compile(rb"[ \t\r\n]*\{[ \t\r\n]*")


class Body(Struct, frozen=True):
    """A JSON object: the caller's bytes, and fields of ours (which `raw` must not name)."""

    raw: bytes
    ours: Mapping[str, Any] = {}

    def encode(self, **more: Any) -> bytes:
        """Give the bytes for one attempt, with `more` fields in front."""
        fields = {**self.ours, **more}
        if not fields:
            return self.raw
        at = 1
        if not self.raw.startswith(b'{"'):
            opening = _OPENING.match(self.raw)
            if opening is None:
                raise ValueError("the body is not a JSON object")
            at = opening.end()
        comma = b"" if self.raw.startswith(b"}", at) else b","
        # One copy of a body that may be long.
        return b"".join((orjson.dumps(fields)[:-1], comma, memoryview(self.raw)[at:]))

    def without(self, names: Collection[str]) -> "Body":
        """Give the same body less some top-level fields."""
        kept = {k: v for k, v in fields_of(self.raw).items() if k not in names}
        return Body(msgspec.json.encode(kept), self.ours)


def fields_of(raw: bytes) -> dict[str, msgspec.Raw]:
    """Give the top-level fields of a JSON object, their values as they were written."""
    return msgspec.json.decode(raw, type=dict[str, msgspec.Raw])
