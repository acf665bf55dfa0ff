"""Which replicas are there, and which does an operator add, drain or remove?"""

from typing import Any

from fastapi import APIRouter, Request
from pydantic import Field, SecretStr

from backends.fleet import EngineKind, Replica, Standing
from backends.registry import replica_id
from gateway.api.admin_services import AdminBody, AdminServices
from gateway.api.audited import audit
from gateway.errors import NotFound
from gateway.settings import Settings
from gateway.settings_types import BaseUrl, Name


class NewReplica(AdminBody):
    """A replica that someone else runs."""

    model: Name
    url: BaseUrl
    engine: EngineKind | None = None
    hardware: Name | None = None
    site: Name = "local"
    served_name: str | None = Field(None, min_length=1)
    max_running: int = Field(0, ge=0)
    api_key: SecretStr | None = None


def replica_routes(services: AdminServices) -> APIRouter:
    """Give the routes below /admin/replicas."""
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
