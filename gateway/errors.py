"""Every way in which the gateway says no, and how each is said over HTTP.

GatewayError
├── InvalidRequest            400  the caller's words are wrong; `param` names the field
│   └── ContextLengthExceeded 400
├── BadKey                    401
├── Forbidden                 403
├── NotFound                  404
│   ├── ModelNotFound         404
│   └── UnknownUrl            404
├── MethodNotAllowed          405
├── RequestTimeout            408  the caller sends its request too slowly
├── Conflict                  409
├── BodyTooLarge              413
├── UnsupportedMediaType      415
├── RateLimited               429  a limit of the key or tenant; final if too large
├── InsufficientQuota         429  the budget is spent: final
├── QueueFull                 429  room will come: Retry-After says when
├── EngineFailed              502  every replica that was tried broke before its first byte
├── Unavailable               503  no replica can serve now, or the store is away
│   ├── NoReplica             503
│   ├── EngineBusy            503  the engine's own queue is full
│   └── Draining              503
├── DeadlineExceeded          504  no answer within the caller's or our time limit
└── StreamBroken              500  after the first byte: told in a last frame of the stream
"""

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar


class GatewayError(Exception):
    """A refusal or failure that the caller is told about.

    `status`, `type` and `code` are class data in OpenAI's terms; `retryable` False adds
    `x-should-retry: false`, which the OpenAI SDKs obey over their own rule for the status.
    """

    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"
    code: str | None = None
    retryable: ClassVar[bool | None] = None
    headers: Mapping[str, str] = MappingProxyType({})  # what else the answer's head tells

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        if code is not None:
            self.code = code
        self.retry_after_s = retry_after_s


class InvalidRequest(GatewayError):
    """The request itself is wrong; repeating it cannot help."""

    status, type, code = 400, "invalid_request_error", "invalid_value"


class ContextLengthExceeded(InvalidRequest):
    """Prompt and answer do not fit the model's context."""

    code = "context_length_exceeded"


class BadKey(GatewayError):
    """No key, or none that we know."""

    status, type, code = 401, "invalid_request_error", "invalid_api_key"


class Forbidden(GatewayError):
    """The key is good, but not for this."""

    status, type, code = 403, "invalid_request_error", "insufficient_permissions"


class NotFound(GatewayError):
    """Nothing of that name, or nothing that this key may see."""

    status, type, code = 404, "invalid_request_error", "not_found"


class ModelNotFound(NotFound):
    """No such model."""

    code = "model_not_found"

    def __init__(self, model: str) -> None:
        super().__init__(
            f"The model '{model[:200]}' does not exist or you do not have access to it.",
            param="model",
        )


class UnknownUrl(NotFound):
    """No such route; `meant` is one that the caller may have had in mind."""

    code = "unknown_url"

    def __init__(self, method: str, path: str, meant: str | None = None) -> None:
        hint = f". Did you mean {meant[:200]}?" if meant else ""
        super().__init__(f"Invalid URL ({method} {path[:200]}){hint}")


class MethodNotAllowed(GatewayError):
    """The route exists, the method does not."""

    status, type, code = 405, "invalid_request_error", "method_not_allowed"


class RequestTimeout(GatewayError):
    """The request did not arrive in time."""

    status, type, code = 408, "invalid_request_error", "request_timeout"


class Conflict(GatewayError):
    """The thing is in a state that forbids this; trying again cannot help."""

    status, type, code, retryable = 409, "invalid_request_error", "conflict", False


class BodyTooLarge(GatewayError):
    """The body is larger than this server takes."""

    status, type, code = 413, "invalid_request_error", "request_too_large"


class UnsupportedMediaType(GatewayError):
    """The body's content type is not one that the route reads."""

    status, type, code = 415, "invalid_request_error", "unsupported_media_type"


class RateLimited(GatewayError):
    """A limit of the key or its tenant is reached; `unit` says of what: requests or tokens."""

    status, type, code = 429, "rate_limit_error", "rate_limit_exceeded"

    def __init__(
        self,
        message: str,
        *,
        unit: str,
        headers: Mapping[str, str],
        retry_after_s: float | None = None,
        final: bool = False,
    ) -> None:
        super().__init__(message, retry_after_s=retry_after_s)
        self.unit = unit
        self.final = final
        self.headers = headers


class InsufficientQuota(GatewayError):
    """The budget of the key or its tenant does not hold this call; waiting does not help soon."""

    status, type, code, retryable = 429, "insufficient_quota", "insufficient_quota", False


class QueueFull(GatewayError):
    """Too many calls wait already, or this one has waited too long."""

    status, type, code = 429, "rate_limit_error", "queue_full"

    def __init__(self, retry_after_s: float, *, code: str | None = None) -> None:
        super().__init__(
            f"The model is busy. Try again in {math.ceil(retry_after_s)} s.",
            code=code,
            retry_after_s=retry_after_s,
        )


class EngineFailed(GatewayError):
    """Every replica that was tried broke before its first byte."""

    status, type, code = 502, "server_error", "engine_error"


class Unavailable(GatewayError):
    """Nothing can serve this now; it may soon."""

    status, type, code = 503, "service_unavailable_error", "server_is_overloaded"


class NoReplica(Unavailable):
    """The model is known, but no replica of it is ready."""

    code = "no_replica_ready"

    def __init__(self, model: str, retry_after_s: float = 5.0) -> None:
        super().__init__(
            f"No replica of '{model[:200]}' is ready. Try again in {math.ceil(retry_after_s)} s.",
            retry_after_s=retry_after_s,
        )


class EngineBusy(Unavailable):
    """The engines' own queues are full."""


class Draining(Unavailable):
    """This gateway is shutting down; another takes over."""

    code = "shutting_down"

    def __init__(self) -> None:
        super().__init__("This server is shutting down. Try again.", retry_after_s=1.0)


class DeadlineExceeded(GatewayError):
    """No answer in time."""

    status, type, code = 504, "server_error", "timeout"


class StreamBroken(GatewayError):
    """The stream ended before its answer did."""

    status, type, code = 500, "server_error", "stream_broken"


def envelope(error: GatewayError) -> dict[str, Any]:
    """Give OpenAI's error body: `{"error": {message, type, param, code}}`, all four keys."""
    return {
        "error": {
            "message": error.message,
            "type": error.type,
            "param": error.param,
            "code": error.code,
        }
    }


def headers(error: GatewayError) -> Mapping[str, str]:
    """Give the headers that tell a client what it can do next.

    Retry-After is in whole seconds, 1 to 120 (the SDKs give up on more); a longer wait is told
    as final.
    """
    found = dict(error.headers)
    if error.status == 401:
        found["www-authenticate"] = "Bearer"
    retryable = error.retryable
    if isinstance(error, RateLimited):
        retryable = False if error.final else None
    if error.retry_after_s is not None:
        if error.retry_after_s > 120:
            retryable = False
        found["retry-after"] = str(min(max(math.ceil(error.retry_after_s), 1), 120))
    if retryable is False:
        found["x-should-retry"] = "false"
    return found
