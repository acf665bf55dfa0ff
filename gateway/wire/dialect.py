"""How does one API word what the engine answers?

The relay speaks to a call's `Dialect` only: it asks it for a `StreamEditor` (frames of the engine
in, frames for the caller out) or hands it a whole document. Editors are pure but for `close`,
which may keep the answer somewhere before the caller is told that it is complete.
"""

from collections.abc import Mapping
from typing import Protocol

from gateway.call import Usage
from gateway.errors import GatewayError


class EngineSaidNo(Exception):
    """The engine ended a stream by an error frame or an abort; `error` is what a caller is told."""

    def __init__(self, error: GatewayError) -> None:
        super().__init__(error.message)
        self.error = error


class StreamEditor(Protocol):
    """Reads one stream of SSE frames and rewrites what has to be rewritten.

    `started`: something more than a greeting has come, so bytes may go to the caller;
    `ended`: the engine has said its last word. Both only ever turn from False to True.
    """

    started: bool
    ended: bool
    usage: Usage | None
    finish_reasons: tuple[str, ...]

    @property
    def plain_end(self) -> bytes:
        """How frames end that need not be fed: they go to the caller as they are; b"": none do.

        It changes only when something is fed.
        """
        ...

    def feed(self, data: bytes) -> bytes:
        """Take bytes as they come, give whole frames for the caller (may be empty).

        Raises EngineSaidNo on an error frame or an abort.
        """
        ...

    async def close(self) -> bytes:
        """Give the last bytes after the engine has ended well."""
        ...

    def failure(self, error: GatewayError) -> bytes:
        """Give the last bytes of a stream that broke after it had started."""
        ...


class Dialect(Protocol):
    """One API's wording of answers and refusals."""

    def editor(self) -> StreamEditor:
        """Make an editor for one attempt's stream."""
        ...

    async def document(self, body: bytes) -> tuple[bytes, Usage | None, tuple[str, ...]]:
        """Turn the engine's unary answer into the caller's: (body, usage, finish reasons).

        Raises EngineSaidNo where the engine aborted.
        """
        ...

    def refusal(self, error: GatewayError) -> tuple[bytes, Mapping[str, str]]:
        """Give the body and headers of an error answered with a status."""
        ...
