"""Which heads of HTTP/1.1 does a connection word by itself? Pure."""

from collections.abc import Iterable

import orjson

from gateway.errors import GatewayError, envelope, headers
from gateway.ids import new_request_id

_UPGRADING = frozenset({b"upgrade", b"http2-settings"})


def last_answer(error: GatewayError) -> bytes:
    """Give the whole answer to a request that no application sees; the connection ends with it."""
    body = orjson.dumps(envelope(error))
    told = {
        "content-type": "application/json",
        "content-length": str(len(body)),
        "connection": "close",
        "x-request-id": new_request_id(),
        "openai-processing-ms": "0",
        **headers(error),
    }
    lines = "".join(f"{name}: {value}\r\n" for name, value in told.items())
    return f"HTTP/1.1 {error.status} Error\r\n{lines}\r\n".encode() + body


def without_upgrade(
    method: bytes, target: bytes, version: str, lines: Iterable[tuple[bytes, bytes]]
) -> bytes:
    """Give a request's head as if it had not asked for another protocol; names are lower case.

    A server may go on like that, but llhttp takes what follows such a head, the body too, for the
    other protocol. Java's HTTP client asks for h2c with each first request on a connection that is
    not encrypted.
    """
    worded = [b"%b %b HTTP/%b" % (method, target, version.encode())]
    for name, value in lines:
        if name == b"connection":
            tokens = [token.strip() for token in value.lower().split(b",")]
            worded.append(b"connection: " + b", ".join(t for t in tokens if t not in _UPGRADING))
        elif name not in _UPGRADING:
            worded.append(b"%b: %b" % (name, value))
    return b"\r\n".join(worded) + b"\r\n\r\n"
