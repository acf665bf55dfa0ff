"""How does SGLang 0.5.23 say no?"""

import json
from typing import Any

import orjson
from aiohttp import web

# SGLang's validation errors name the file of its route; a gateway is expected to scrub that, so it
# is here too.
_LEAKED_FILE = "/opt/sgl-venv/lib/python3.11/site-packages/sglang/srt/entrypoints/http_server.py"


class Refusal(Exception):
    """A request that is answered with an error; `kind` is the body's `type`."""

    def __init__(self, message: str, *, status: int = 400, kind: str = "BadRequestError") -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.kind = kind


class QueueIsFull(Refusal):
    """No more calls may wait: 503 for a unary call, a frame inside a 200 for a stream."""

    def __init__(self) -> None:
        super().__init__("The request queue is full.", status=503, kind="503")


class Invalid(Refusal):
    """A body that does not have the schema: a dump of the validation error, with the route in
    it.
    """

    def __init__(
        self, kind: str, location: tuple[object, ...], message: str, given: object, **extra: Any
    ) -> None:
        self.detail = {
            "type": kind,
            "loc": ("body", *location),
            "msg": message,
            "input": given,
            **extra,
        }
        super().__init__(message, kind="Bad Request")

    def body_for(self, method: str, path: str) -> bytes:
        """Give the flat error body as SGLang words it for a route."""
        function = "openai" + path.replace("/", "_").replace("-", "_")
        where = f'File "{_LEAKED_FILE}", line 1870, in {function}'
        message = (
            f"1 validation error:\n  {self.detail}\n\n"
            f"  {where}\n    {method} {path} [{self.detail}]"
        )
        return flat(message, "Bad Request", 400)


def missing(name: str, given: object) -> Invalid:
    """A required field is not there."""
    return Invalid("missing", (name,), "Field required", given)


def flat(message: str, kind: str, code: int) -> bytes:
    """Give SGLang's flat error body."""
    return orjson.dumps(
        {"object": "error", "message": message, "type": kind, "param": None, "code": code}
    )


def error_frame(message: str, kind: str, code: int) -> bytes:
    """Give the frame that a stream carries where a unary call would have an error status."""
    error = {"object": "error", "message": message, "type": kind, "param": None, "code": code}
    # SGLang writes this one frame with spaces after its separators
    return b"data: " + json.dumps({"error": error}).encode() + b"\n\n"


def refused(refusal: Refusal, request: web.Request) -> web.Response:
    """Give the answer that a refusal leads to on a route of the given dialect."""
    path = request.path
    if path.startswith("/v1/messages"):
        kind = "invalid_request_error" if refusal.status < 500 else "api_error"
        kind = "overloaded_error" if refusal.status == 503 else kind
        body = orjson.dumps({"type": "error", "error": {"type": kind, "message": refusal.message}})
    elif isinstance(refusal, Invalid):
        body = refusal.body_for(request.method, path)
    elif path == "/generate":
        body = orjson.dumps({"error": {"message": refusal.message}})
    else:
        body = flat(refusal.message, refusal.kind, refusal.status)
    return web.Response(body=body, status=refusal.status, content_type="application/json")
