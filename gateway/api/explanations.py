"""`GET /admin/calls/{id}`: why did a call go where it went?"""

from typing import Any

from fastapi import APIRouter

from gateway.errors import NotFound
from gateway.explain_store import Explanations
from gateway.explain_words import told


def explanation_routes(explanations: Explanations) -> APIRouter:
    """Make the route; redis.RedisError where only the store could know and does not answer."""
    router = APIRouter(prefix="/admin/calls", tags=["calls"])

    @router.get("/{request_id}")
    async def explain_call(request_id: str) -> dict[str, Any]:
        record = await explanations.find(request_id)
        if record is None:
            raise NotFound(
                f"No record of the call '{request_id[:200]}': it is unknown, too old, or one of "
                "those that were not kept."
            )
        return {"object": "call.explanation", **record, "words": told(record)}

    return router
