"""What may an operator see and change while the gateway runs?

An application of its own, on a port and with a key of its own: no caller's key opens it.
"""

import hmac
from collections.abc import Sequence
from typing import Any, Protocol

import structlog
from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field, SecretStr
from redis import RedisError
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from backends.clock import Clock
from backends.fleet import EngineKind, Fleet, Replica, Standing
from backends.registry import replica_id
from gateway.api.audited import audit
from gateway.api.refusals import answer, install
from gateway.audit import Audit
from gateway.auth import Authenticator
from gateway.call import Quota
from gateway.errors import BadKey, BodyTooLarge, Forbidden, InvalidRequest, NotFound, Unavailable
from gateway.keys import Grant, KeyStore
from gateway.settings import Settings
from gateway.settings_types import BaseUrl, Name

MOST_BODY_BYTES = 64 * 1024

_log = structlog.get_logger("admin")


class AdminRegistry(Protocol):
    """What the admin API asks of the registry of replicas; all may raise redis.RedisError."""

    @property
    def fleet(self) -> Fleet:
        """The last snapshot."""
        ...

    async def adopt(self, replica: Replica) -> None:
        """Add a replica that someone else runs."""
        ...

    async def drain(self, replica_id: str) -> bool:
        """Send nothing new to it; False when it is unknown."""
        ...

    async def resume(self, replica_id: str) -> bool:
        """Take a drain back; False when it is unknown."""
        ...

    async def remove(self, replica_id: str) -> bool:
        """Forget it; False when it is unknown."""
        ...


class AdminServices(Protocol):
    """What the admin API is made from."""

    @property
    def settings(self) -> Settings: ...
    @property
    def clock(self) -> Clock: ...
    @property
    def registry(self) -> AdminRegistry: ...
    @property
    def keys(self) -> KeyStore: ...
    @property
    def authenticator(self) -> Authenticator: ...


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class NewReplica(_Body):
    """A replica that someone else runs."""

    model: Name
    url: BaseUrl
    engine: EngineKind | None = None
    hardware: Name | None = None
    site: Name = "local"
    served_name: str | None = Field(None, min_length=1)
    max_running: int = Field(0, ge=0)
    api_key: SecretStr | None = None


class NewKey(_Body):
    """What a new key shall open; absent `models` or `classes`: all of them."""

    name: str = Field("", max_length=200)
    tenant: Name = "default"
    models: list[Name] | None = None
    classes: list[Name] | None = None
    default_class: Name | None = None
    expires_at: float | None = Field(None, gt=0, allow_inf_nan=False)
    requests_per_min: int | None = Field(None, ge=0)
    tokens_per_min: int | None = Field(None, ge=0)
    concurrency: int | None = Field(None, ge=0)
    tokens_per_day: int | None = Field(None, ge=0)
    tokens_per_month: int | None = Field(None, ge=0)


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
    async def store_away(_: Request, error: Exception) -> JSONResponse:
        _log.warning("store_away", error=type(error).__name__)
        return answer(Unavailable("The store does not answer. Try again.", retry_after_s=5.0))

    app.add_middleware(AdminGate, key=services.settings.admin_key)
    app.include_router(_replica_routes(services))
    app.include_router(_key_routes(services))
    for router in more:
        app.include_router(router)
    app.include_router(probes)
    return app


def _replica_routes(services: AdminServices) -> APIRouter:
    router = APIRouter(prefix="/admin/replicas", tags=["replicas"])
    registry = services.registry

    @router.get("")
    async def list_replicas() -> dict[str, Any]:
        fleet = registry.fleet
        now = services.clock.now()
        standings = [s for pool in fleet.pools.values() for s in pool.standings]
        return {"object": "list", "at": fleet.at, "data": [_shown(s, now) for s in standings]}

    @router.post("", status_code=201)
    async def add_replica(new: NewReplica, request: Request) -> dict[str, Any]:
        replica = _replica(new, services.settings)
        await registry.adopt(replica)
        await audit(
            request, "replica.add", replica=replica.id, model=replica.model, url=replica.url
        )
        return _shown(Standing(replica), services.clock.now())

    @router.post("/{name}/drain")
    async def drain_replica(name: str, request: Request) -> dict[str, Any]:
        _known(await registry.drain(name), name)
        await audit(request, "replica.drain", replica=name)
        return {"id": name, "draining": True}

    @router.post("/{name}/resume")
    async def resume_replica(name: str, request: Request) -> dict[str, Any]:
        _known(await registry.resume(name), name)
        await audit(request, "replica.resume", replica=name)
        return {"id": name, "draining": False}

    @router.delete("/{name}")
    async def remove_replica(name: str, request: Request) -> dict[str, Any]:
        _known(await registry.remove(name), name)
        await audit(request, "replica.remove", replica=name)
        return {"id": name, "deleted": True}

    return router


def _key_routes(services: AdminServices) -> APIRouter:
    router = APIRouter(prefix="/admin/keys", tags=["keys"])

    @router.get("")
    async def list_keys() -> dict[str, Any]:
        return {"object": "list", "data": [each.shown() for each in await services.keys.list()]}

    @router.post("", status_code=201)
    async def create_key(new: NewKey, request: Request) -> dict[str, Any]:
        key, record = await services.keys.create(_grant(new, services))
        await audit(request, "key.create", key_id=record.id, tenant=record.grant.tenant)
        return {**record.shown(), "key": key}

    @router.delete("/{key_id}")
    async def revoke_key(key_id: str, request: Request) -> dict[str, Any]:
        record = await services.keys.revoke(key_id)
        if record is None:
            raise NotFound(f"No key with the id '{key_id[:200]}'.")
        services.authenticator.forget(key_id)
        await audit(request, "key.revoke", key_id=key_id)
        return record.shown()

    return router


def _replica(new: NewReplica, settings: Settings) -> Replica:
    model = settings.models.get(new.model)
    return Replica(
        id=replica_id(new.model, new.url),
        model=new.model,
        url=new.url,
        engine=new.engine or (model.engine if model else EngineKind.SGLANG),
        hardware=new.hardware or (model.hardware if model else "mi355x"),
        site=new.site,
        served_name=new.served_name or (model.served_name if model else None),
        max_running=new.max_running or (model.max_running if model else 0),
        api_key=None if new.api_key is None else new.api_key.get_secret_value(),
    )


def _grant(new: NewKey, services: AdminServices) -> Grant:
    known = services.settings.classes
    for name in [*(new.classes or ()), *([new.default_class] if new.default_class else ())]:
        if name not in known:
            param = "default_class" if name == new.default_class else "classes"
            raise InvalidRequest(
                f"Unknown class '{name}'; there are {', '.join(known)}.", param=param
            )
    if new.classes is not None and new.default_class and new.default_class not in new.classes:
        raise InvalidRequest("The key may not use its own default class.", param="default_class")
    if new.expires_at is not None and new.expires_at <= services.clock.now():
        raise InvalidRequest("`expires_at` is in the past.", param="expires_at")
    return Grant(
        name=new.name,
        tenant=new.tenant,
        models=None if new.models is None else frozenset(new.models),
        classes=None if new.classes is None else frozenset(new.classes),
        default_class=new.default_class,
        expires_at=new.expires_at,
        quota=Quota(
            new.requests_per_min,
            new.tokens_per_min,
            new.concurrency,
            new.tokens_per_day,
            new.tokens_per_month,
        ),
    )


def _shown(standing: Standing, now: float) -> dict[str, Any]:
    replica, health, load = standing.replica, standing.health, standing.load
    return {
        "id": replica.id,
        "model": replica.model,
        "url": replica.url,
        "engine": replica.engine,
        "hardware": replica.hardware,
        "site": replica.site,
        "served_name": replica.served_name,
        "max_running": replica.max_running,
        "health": {
            "state": health.state,
            "reason": health.reason,
            "strikes": health.strikes,
            "since_at": health.since_at,
        },
        "load": None
        if load is None
        else {
            "running": load.running,
            "waiting": load.waiting,
            "used_tokens": load.used_tokens,
            "max_total_tokens": load.max_total_tokens,
            "max_running": load.max_running,
            "age_s": round(max(now - load.seen_at, 0.0), 3),
        },
    }


def _known(found: bool | None, name: str) -> None:
    if found is False:
        raise NotFound(f"No replica with the id '{name[:200]}'.")
