"""What may an operator see and change while the gateway runs?

An application of its own, on a port and with a key of its own: no caller's key opens it.
"""

import hmac
from collections.abc import Sequence

import structlog
from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import Response
from pydantic import SecretStr
from redis import RedisError
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.api.admin_keys import key_routes
from gateway.api.admin_replicas import replica_routes
from gateway.api.admin_services import AdminServices
from gateway.api.refusals import answer, install
from gateway.audit import Audit
from gateway.errors import BadKey, BodyTooLarge, Forbidden, Unavailable

MOST_BODY_BYTES = 64 * 1024

_log = structlog.get_logger("admin")


class AdminGate:
    """Lets nobody below /admin without the admin key, before anything of a body is read."""

    def __init__(self, app: ASGIApp, *, key: SecretStr | None) -> None:
        self._app = app
        self._key = None if key is None else key.get_secret_value().encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on or refuse."""
        guarded = scope["type"] == "http" and scope["path"].startswith("/admin")
        refusal = self._refusal(Headers(scope=scope)) if guarded else None
        await (self._app if refusal is None else answer(refusal))(scope, receive, send)

    def _refusal(self, headers: Headers) -> BadKey | Forbidden | BodyTooLarge | None:
        if self._key is None:
            return Forbidden("The admin API is closed: no admin key is set.")
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            return BadKey("Send the admin key as 'Authorization: Bearer' and then the key.")
        if not hmac.compare_digest(given.strip().encode("latin-1"), self._key):
            return BadKey("Incorrect admin key provided.")
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > MOST_BODY_BYTES:
            return BodyTooLarge(f"The body is larger than {MOST_BODY_BYTES} bytes.")
        return None


def admin_app(
    services: AdminServices, *, probes: APIRouter, more: Sequence[APIRouter] = ()
) -> FastAPI:
    """Make the application; `probes` are the routes that need no key: /livez, /readyz, /metrics.

    `more` are further routes below /admin.
    """
    shown = services.settings.docs
    app = FastAPI(
        title="Sluice admin API",
        docs_url="/docs" if shown else None,
        redoc_url=None,
        openapi_url="/openapi.json" if shown else None,
    )
    app.state.services = services  # where the probes look
    app.state.audit = Audit(services.settings.audit_file, services.clock)
    install(app)

    @app.exception_handler(RedisError)
    async def store_away(_: Request, error: Exception) -> Response:
        _log.warning("store_away", error=type(error).__name__)
        return answer(Unavailable("The store does not answer. Try again.", retry_after_s=5.0))

    app.add_middleware(AdminGate, key=services.settings.admin_key)
    app.include_router(replica_routes(services))
    app.include_router(key_routes(services))
    for router in more:
        app.include_router(router)
    app.include_router(probes)
    return app
