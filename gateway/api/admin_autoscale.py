"""`/admin/autoscale`: what an operator sees of the autoscaler, and may tell it."""

from typing import Any

from fastapi import APIRouter, Request
from redis.asyncio import Redis

from backends import autoscaling
from backends.clock import Clock
from gateway.api.audited import actor, audit
from gateway.errors import NotFound


def autoscale_routes(store: Redis, clock: Clock) -> APIRouter:
    """Make the routes; the autoscaler reads what is written here at its next tick."""
    router = APIRouter(prefix="/admin/autoscale", tags=["autoscale"])

    @router.get("")
    async def show() -> dict[str, Any]:
        control = await autoscaling.read_control(store)
        return {
            "paused": control.paused_at is not None,
            "paused_at": control.paused_at,
            "pools": await autoscaling.states(store),
            "proposals": await autoscaling.proposals(store),
        }

    @router.post("/pause")
    async def pause(request: Request) -> dict[str, Any]:
        now = clock.now()
        await autoscaling.pause(store, now=now, by=actor(request))
        await audit(request, "autoscale.pause")
        return {"paused": True, "paused_at": now}

    @router.post("/resume")
    async def resume(request: Request) -> dict[str, Any]:
        was = await autoscaling.resume(store)
        await audit(request, "autoscale.resume")
        return {"paused": False, "was_paused": was}

    @router.post("/approve/{pool}")
    async def approve(pool: str, request: Request) -> dict[str, Any]:
        proposal = await autoscaling.approve(store, pool)
        if proposal is None:
            raise NotFound(f"Nothing waits for approval in the pool '{pool[:200]}'.")
        await audit(request, "autoscale.approve", pool=pool)
        return {"approved": True, "proposal": proposal}

    return router
