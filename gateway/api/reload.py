"""How does an operator have the settings read again?"""

import structlog
from fastapi import APIRouter

from gateway.config import ConfigError
from gateway.errors import InvalidRequest
from gateway.reload import Reloader


def reload_routes(reloader: Reloader) -> APIRouter:
    """Give `POST /admin/reload`."""
    router = APIRouter(prefix="/admin", tags=["settings"])

    @router.post("/reload")
    async def reload() -> dict[str, list[str]]:
        try:
            found = await reloader.reload()
        except ConfigError as error:
            raise InvalidRequest(str(error), code="invalid_settings") from None
        structlog.get_logger("admin").info("admin_write", action="reload", applied=found.applied)
        return {"applied": [*found.applied], "after_restart": [*found.after_restart]}

    return router
