"""Which keys are there, and which does an operator make or revoke?"""

from typing import Any

from fastapi import APIRouter, Request
from pydantic import Field

from gateway.api.admin_services import AdminBody, AdminServices
from gateway.api.audited import audit
from gateway.call import Quota
from gateway.errors import InvalidRequest, NotFound
from gateway.keys import Grant
from gateway.settings_types import Name


class NewKey(AdminBody):
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


def key_routes(services: AdminServices) -> APIRouter:
    """Give the routes below /admin/keys."""
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
