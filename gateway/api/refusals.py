"""How does every failure inside a FastAPI application become OpenAI's error envelope?

Or Anthropic's, on the routes that are theirs.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import structlog
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match

from gateway.errors import (
    GatewayError,
    InvalidRequest,
    MethodNotAllowed,
    UnknownUrl,
)
from gateway.ids import new_request_id
from gateway.wire.anthropic import anthropic_refusal
from gateway.wire.dialects import openai_refusal

_log = structlog.get_logger("api")


VERSION = "v1"
ANTHROPIC = ("/v1/messages", "/v1/messages/")


def answer(error: GatewayError, request: Request | None = None) -> Response:
    """Say an error over HTTP, in the words of the API that the request's path belongs to."""
    path = "" if request is None else request.url.path
    is_anthropic = path == ANTHROPIC[0] or path.startswith(ANTHROPIC[1])
    body, more = (anthropic_refusal if is_anthropic else openai_refusal)(error)
    said = Response(body, error.status, dict(more), media_type="application/json")
    if is_anthropic and request is not None:  # every answer is given `x-request-id` later
        said.headers["request-id"] = request_id_of(request)
    return said


def request_id_of(request: Request) -> str:
    """Give the id that the middleware gave a request; a new one where it did not come that far."""
    return str(request.scope.get("sluice.id") or new_request_id())


def of_http_exception(error: HTTPException, request: Request) -> GatewayError:
    """Say what the framework raised by itself (unknown routes and methods) in our words."""
    method, path = request.method, request.url.path
    match error.status_code:
        case 404:
            return UnknownUrl(method, path, _meant(request))
        case 405:
            return MethodNotAllowed(f"Not allowed to {method} on {path[:200]}")
        case status if 400 <= status < 500:
            return InvalidRequest(str(error.detail))
    return GatewayError("The server had an error while processing your request.")


def _meant(request: Request) -> str | None:
    """Give the route of which a wrong base URL made this path: most have `/v1` twice or never."""
    parts = [part for part in request.url.path.split("/") if part]
    while VERSION in parts:
        parts = parts[parts.index(VERSION) + 1 :]
    guess = "/".join(("", VERSION, *parts))
    scope = {**request.scope, "path": guess}
    is_route = any(route.matches(scope)[0] is Match.FULL for route in request.app.routes)
    return guess if is_route and guess != request.url.path else None


def of_validation(errors: Sequence[Mapping[str, Any]]) -> InvalidRequest:
    """Say the first of pydantic's errors; `param` is its field, as in `messages[0].role`."""
    first = errors[0]
    where = [part for part in first["loc"] if part not in {"body", "query", "path"}]
    param = ""
    for part in where:
        param += f"[{part}]" if isinstance(part, int) else f"{'.' if param else ''}{part}"
    kind = str(first["type"])
    if kind == "json_invalid":
        return InvalidRequest("The body is not valid JSON.", code="invalid_json")
    if kind == "missing":
        text = f"Missing required parameter: '{param}'." if param else "A JSON body is required."
        return InvalidRequest(text, param=param or None, code="missing_required_parameter")
    code = "invalid_type" if kind.endswith(("_type", "_parsing")) else "invalid_value"
    if kind == "extra_forbidden":
        return InvalidRequest(
            f"Unknown parameter: '{param}'.", param=param, code="unknown_parameter"
        )
    return InvalidRequest(f"Invalid '{param}': {first['msg']}", param=param or None, code=code)


def install(app: FastAPI) -> None:
    """Have the application answer every failure in the envelope, a bug with 500 and no detail."""

    @app.exception_handler(GatewayError)
    async def refused(request: Request, error: GatewayError) -> Response:
        return answer(error, request)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        return answer(of_validation(error.errors()), request)

    @app.exception_handler(HTTPException)
    async def raised(request: Request, error: HTTPException) -> Response:
        said = answer(of_http_exception(error, request), request)
        said.headers.update(error.headers or {})  # Allow, with a 405
        return said

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> Response:
        _log.error("unhandled", path=request.url.path, exc_info=error)
        bug = GatewayError("The server had an error while processing your request.")
        said = answer(bug, request)
        # Starlette answers a bug outside of all middleware, which would have set it.
        said.headers["x-request-id"] = request_id_of(request)
        said.headers["openai-processing-ms"] = "0"
        return said
