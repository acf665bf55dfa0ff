"""Who calls, and with which body? Read within the operator's bounds."""

import asyncio
from collections.abc import Mapping

from starlette.types import Receive, Scope

from gateway.call import Principal
from gateway.errors import BodyTooLarge, RequestTimeout, UnsupportedMediaType
from gateway.protocol import Turn
from gateway.services import Services


def headers_of(scope: Scope) -> Mapping[str, str]:
    """Give a request's headers by their names in small letters; of several, the first one.

    A dictionary made once: Starlette's own looks through all headers whenever one is asked for.
    """
    return {k.decode("latin-1"): v.decode("latin-1") for k, v in reversed(scope["headers"])}


async def identify(services: Services, headers: Mapping[str, str]) -> Principal:
    """Find out who calls, by `Authorization: Bearer` or Anthropic's `x-api-key`."""
    authorization, api_key = headers.get("authorization"), headers.get("x-api-key")
    return await services.authenticator.identify(
        authorization.encode("latin-1") if authorization is not None else None,
        api_key.encode("latin-1") if api_key is not None else None,
    )


def whole_body(services: Services, headers: Mapping[str, str], turn: Turn) -> bytes | None:
    """Give a JSON body that is there already, within the operator's bounds; None where it isn't."""
    _check_head(headers, services.settings.limits.body_bytes)
    body = turn.whole_body()
    if body is not None and len(body) > services.settings.limits.body_bytes:
        raise _too_large(services.settings.limits.body_bytes)
    return body


def _check_head(headers: Mapping[str, str], most_bytes: int) -> None:
    kind = headers.get("content-type", "application/json")
    if kind != "application/json":
        kind = (kind or "application/json").partition(";")[0].strip().lower()
        if kind != "application/json" and not kind.endswith("+json"):
            raise UnsupportedMediaType("The content type must be application/json.")
    coding = headers.get("content-encoding")
    if coding is not None and coding.strip().lower() not in ("", "identity"):
        raise UnsupportedMediaType("Compressed bodies are not read: leave Content-Encoding out.")
    declared = headers.get("content-length", "0")
    if declared.isdecimal() and int(declared) > most_bytes:
        raise _too_large(most_bytes)


def _too_large(most_bytes: int) -> BodyTooLarge:
    return BodyTooLarge(f"Bodies are limited to {most_bytes} bytes.")


async def read_body(services: Services, headers: Mapping[str, str], receive: Receive) -> bytes:
    """Read a JSON body within the operator's bounds."""
    limits = services.settings.limits
    _check_head(headers, limits.body_bytes)
    pieces: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(limits.body_timeout_s):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise RequestTimeout("The caller left before its request was complete.")
                piece = message.get("body", b"")
                size += len(piece)
                if size > limits.body_bytes:
                    raise _too_large(limits.body_bytes)
                pieces.append(piece)
                if not message.get("more_body", False):
                    return pieces[0] if len(pieces) == 1 else b"".join(pieces)
    except TimeoutError:
        raise RequestTimeout("The request's body did not arrive in time.") from None
