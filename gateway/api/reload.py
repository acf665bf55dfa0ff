"""How does an operator have the settings read again?"""

from fastapi import APIRouter, Request

from gateway.api.audited import audit
from gateway.config import ConfigError
from gateway.errors import InvalidRequest
from gateway.reload import Reloader


def reload_routes(reloader: Reloader) -> APIRouter:
    """Give `POST /admin/reload`."""
    router = APIRouter(prefix="/admin", tags=["settings"])

    @router.post("/reload")
    async def reload(request: Request) -> dict[str, list[str]]:
        try:
            found = await reloader.reload()
        except ConfigError as error:
            raise InvalidRequest(str(error), code="invalid_settings") from None
        await audit(request, "reload", applied=found.applied)
        return {"applied": [*found.applied], "after_restart": [*found.after_restart]}

    return router
