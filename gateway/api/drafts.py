"""What has a route read, and under which promise does it become a call?"""

import math
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from msgspec import Struct, structs

from gateway.call import Call, Operation, Principal
from gateway.classes import hinted, place
from gateway.errors import GatewayError, InvalidRequest, ModelNotFound
from gateway.ids import new_id
from gateway.isolation import SALTED, salt_of
from gateway.media import settled
from gateway.services import Services
from gateway.settings import Settings
from gateway.sink import Sink
from gateway.wire.body import Body
from gateway.wire.dialect import Dialect
from gateway.wire.dialects import openai_refusal


class Draft(Struct, frozen=True, kw_only=True):
    """What a route has read: a call without its caller.

    `path` is the engine's; `tier` what the caller asked for; `dialect` is made once the tier that
    is served is known. `serve` stands in for the pipeline where the caller does not wait.
    """

    operation: Operation
    path: str
    model: str
    body: Body
    dialect: Callable[[str | None], Dialect]
    stream: bool = False
    tier: str | None = None
    takes_rid: bool = True
    attributes: Mapping[str, str | int | float | bool] = {}
    serve: Callable[[Call, Sink], Awaitable[object]] | None = None


class Asker(Struct, frozen=True):
    """Who asks, with the headers of the request; what a route may look at besides the body."""

    principal: Principal
    headers: Mapping[str, str]
    services: Services

    def shown_model(self, model: str) -> str | None:
        """The public name, where an engine of the pool knows the model by another."""
        return model if self.services.registry.fleet.pool(model).renames else None


Read = Callable[[bytes, Asker], Awaitable[Draft]]
Refuse = Callable[[GatewayError], tuple[bytes, Mapping[str, str]]]


@dataclass(frozen=True, slots=True)
class Surface:
    """One route's own part: reading a body, wording a refusal.

    `id_header`: what clients of this API read the request's id from, besides `x-request-id`.
    """

    read: Read
    refuse: Refuse = openai_refusal
    id_header: bytes | None = None


async def guarded(settings: Settings, principal: Principal, draft: Draft) -> Draft:
    """Keep an engine from following a caller's URLs, and tenants out of each other's caches."""
    body = await settled(draft.body, settings.fetch)
    salt = salt_of(principal.tenant, settings.isolation) if draft.path in SALTED else None
    if salt is not None:
        body = Body(body.raw, {**body.ours, "cache_salt": salt})
    return draft if body is draft.body else structs.replace(draft, body=body)


def make_call(
    services: Services,
    principal: Principal,
    draft: Draft,
    headers: Mapping[str, str],
    request_id: str,
    arrived: float,
) -> Call:
    """Put a draft under a promise. Raises ModelNotFound for a model that is not the caller's."""
    settings = services.settings
    known = draft.model in settings.models or draft.model in services.registry.fleet.pools
    if not known or not principal.may_use_model(draft.model):
        raise ModelNotFound(draft.model)
    if services.videos.makes_videos(draft.model):
        raise InvalidRequest(
            f"The model '{draft.model[:200]}' makes videos: ask for them at /v1/videos.",
            param="model",
        )
    class_name, served_tier = place(draft.tier, principal, services.classes, settings.default_class)
    patience_s = settings.timeouts.total_s
    if not draft.stream:
        patience_s = min(patience_s, _read_timeout_s(headers) - 1)
    return Call(
        id=request_id,
        key=new_id(),
        principal=principal,
        operation=draft.operation,
        path=draft.path,
        model=draft.model,
        body=draft.body,
        dialect=draft.dialect(served_tier),
        stream=draft.stream,
        class_name=class_name,
        coalesce_s=settings.classes[class_name].coalesce_ms / 1e3,
        arrived=arrived,
        arrived_at=services.clock.now(),
        deadline=arrived + patience_s,
        traceparent=headers.get("traceparent"),
        tracestate=headers.get("tracestate"),
        takes_rid=draft.takes_rid,
        attributes=draft.attributes,
        hint=hinted(headers, class_name, draft.model, principal, services.classes),
    )


def _read_timeout_s(headers: Mapping[str, str]) -> float:
    """Say how long OpenAI's client waits for the next byte; infinity where it does not say."""
    told = headers.get("x-stainless-read-timeout")
    if told is None:
        return math.inf
    try:
        told_s = float(told)
    except ValueError:
        return math.inf
    return told_s if told_s > 1 else math.inf
