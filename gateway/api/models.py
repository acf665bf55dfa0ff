"""`GET /v1/models` and `GET /v1/models/{id}`: what may this key use?

Anthropic's clients, which send `anthropic-version`, ask the same paths for another shape.
"""

from datetime import UTC, datetime
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request

from gateway.api.intake import identify
from gateway.errors import ModelNotFound, UnknownUrl
from gateway.services import Services

router = APIRouter(tags=["models"])


@router.get("/v1/models")
async def list_models(request: Request) -> dict[str, Any]:
    """List the models that the key may use."""
    services: Services = request.app.state.services
    principal = await identify(services, request.headers)
    names = [m for m in services.models() if principal.may_use_model(m)]
    if not _is_anthropic(request):
        return {"object": "list", "data": [_card(services, name) for name in names]}
    return {
        "data": [_anthropic_card(services, name) for name in names],
        "has_more": False,
        "first_id": names[0] if names else None,
        "last_id": names[-1] if names else None,
    }


@router.get("/v1/models/{model:path}")
async def retrieve_model(request: Request, model: str) -> dict[str, Any]:
    """Describe one model; an id with slashes may come percent-encoded."""
    services: Services = request.app.state.services
    principal = await identify(services, request.headers)
    if not model:
        raise UnknownUrl(request.method, request.url.path)
    if model not in services.models() or not principal.may_use_model(model):
        raise ModelNotFound(model)
    return (_anthropic_card if _is_anthropic(request) else _card)(services, model)


def _is_anthropic(request: Request) -> bool:
    return "anthropic-version" in request.headers


def _anthropic_card(services: Services, name: str) -> dict[str, Any]:
    created = datetime.fromtimestamp(int(services.lifecycle.started_at), UTC)
    return {
        "type": "model",
        "id": name,
        "display_name": name,
        "created_at": created.isoformat().replace("+00:00", "Z"),
    }


def _card(services: Services, name: str) -> dict[str, Any]:
    settings = services.settings.models.get(name)
    card: dict[str, Any] = {
        "id": name,
        "object": "model",
        "created": int(services.lifecycle.started_at),
        "owned_by": settings.owned_by if settings else "sluice",
    }
    if settings is not None and settings.context_length:
        card["max_model_len"] = settings.context_length
    return card
