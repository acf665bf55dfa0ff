"""What is done to every request and answer, whatever its route? Pure ASGI only."""

import asyncio
from collections.abc import Sequence

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.forwarded import Network, caller, is_trusted, parsed, values
from gateway.ids import new_request_id
from gateway.sink import Header

ANY = "*"
_PREFLIGHT_KEPT_S = 7200  # what browsers keep at most
_METHODS = b"GET, HEAD, POST, DELETE"


class RequestId:
    """Gives each request an id and tells it, with the time until the answer began.

    The id is always ours: it names the call in logs, traces and explanations, so a caller may not
    choose it. `scope["sluice.id"]` holds it, `scope["sluice.began"]` when the request was there.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        loop = asyncio.get_running_loop()
        began = loop.time()
        request_id = new_request_id()
        scope["sluice.id"], scope["sluice.began"] = request_id, began

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                took_ms = b"%d" % ((loop.time() - began) * 1e3)
                message["headers"] = [
                    *message.get("headers", ()),
                    *scope.get("sluice.cors", ()),
                    (b"x-request-id", request_id.encode()),
                    (b"openai-processing-ms", took_ms),
                ]
            await send(message)

        await self._app(scope, receive, send_with_id)


class Forwarded:
    """Puts the caller's address and scheme into the scope, where the peer is a trusted proxy.

    From any other peer the headers mean nothing.
    """

    def __init__(self, app: ASGIApp, trusted: Sequence[Network]) -> None:
        self._app = app
        self._trusted = trusted

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        peer = scope.get("client")
        if scope["type"] == "http" and peer is not None:
            address = parsed(peer[0])
            if address is not None and is_trusted(address, self._trusted):
                headers = scope["headers"]
                found = caller(address, values(headers, b"x-forwarded-for"), self._trusted)
                if found != address:
                    scope["client"] = (str(found), 0)
                scheme = values(headers, b"x-forwarded-proto")[-1:]
                if scheme and scheme[0].lower() in ("http", "https"):
                    scope["scheme"] = scheme[0].lower()
        await self._app(scope, receive, send)


class Cors:
    """Answers preflights, and names in the scope what answers to a page tell its browser.

    `scope["sluice.cors"]` is there where the origin is allowed: whoever writes a head adds it. Keys
    travel in a header that a page must set itself, never in a cookie, so no page speaks for
    somebody whose browser it runs in.
    """

    def __init__(self, app: ASGIApp, origins: Sequence[str]) -> None:
        self._app = app
        self._origins = frozenset(origin.encode() for origin in origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        asked = dict(scope["headers"]) if scope["type"] == "http" else {}
        told = self._told(asked.get(b"origin"))
        if told and scope["method"] == "OPTIONS" and b"access-control-request-method" in asked:
            wanted = asked.get(b"access-control-request-headers", b"*")
            more = (
                (b"access-control-allow-methods", _METHODS),
                (b"access-control-allow-headers", wanted),
                (b"access-control-max-age", b"%d" % _PREFLIGHT_KEPT_S),
            )
            await send(
                {"type": "http.response.start", "status": 204, "headers": [*told, *more]},
            )
            await send({"type": "http.response.body"})
            return
        if told:
            scope["sluice.cors"] = told
        await self._app(scope, receive, send)

    def _told(self, origin: bytes | None) -> tuple[Header, ...]:
        if origin is None:
            return ()
        if ANY.encode() in self._origins:
            allowed: tuple[Header, ...] = ((b"access-control-allow-origin", b"*"),)
        elif origin in self._origins:
            allowed = ((b"access-control-allow-origin", origin), (b"vary", b"origin"))
        else:
            return ()
        return (*allowed, (b"access-control-expose-headers", b"*"))


def open_to_pages(app: ASGIApp, origins: Sequence[str]) -> ASGIApp:
    """Let pages of these origins call an application."""
    return Cors(app, origins) if origins else app
