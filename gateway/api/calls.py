"""How does a request become a call, and a call an answer? One path for every inference route.

A route gives a `Surface`: how it reads its body into a `Draft` and how it words a refusal. All
else is here: the key, the body's bounds, the class, the deadline, and the caller who hangs up.
"""

import asyncio
import math
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

import structlog
from msgspec import Struct, structs
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from gateway.call import Call, Operation, Principal
from gateway.classes import hinted, place
from gateway.errors import (
    BodyTooLarge,
    Draining,
    GatewayError,
    InvalidRequest,
    ModelNotFound,
    RequestTimeout,
    StreamBroken,
    UnsupportedMediaType,
)
from gateway.ids import new_id
from gateway.isolation import SALTED, salt_of
from gateway.media import settled
from gateway.protocol import EXTENSION, DirectSink, Turn
from gateway.services import Services
from gateway.settings import Settings
from gateway.sink import AsgiSink, Sink
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
        pool = self.services.registry.fleet.pool(model)
        for standing in pool.standings:
            if standing.replica.served_name:
                return model
        return None


Read = Callable[[bytes, Asker], Awaitable[Draft]]
Refuse = Callable[[GatewayError], tuple[bytes, Mapping[str, str]]]


@dataclass(frozen=True, slots=True)
class Surface:
    """One route's own part: reading a body, wording a refusal."""

    read: Read
    refuse: Refuse = openai_refusal


class CallRoute:
    """One inference route as an ASGI application, without a router or an endpoint around it."""

    def __init__(self, services: Services, surface: Surface) -> None:
        self._services = services
        self._surface = surface

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI: serve the call."""
        services = self._services
        turn: Turn | None = (scope.get("extensions") or {}).get(EXTENSION)
        sink: Sink = AsgiSink(send)
        if turn is not None:
            sink = DirectSink(turn, scope["sluice.id"], scope["sluice.began"])
        services.lifecycle.in_flight += 1
        try:
            await self._serve(scope, receive, sink, turn)
        except StreamBroken:
            return  # told in the stream
        except GatewayError as error:
            services.metrics.refusals.labels(error.code or "").inc()
            await refuse(sink, error, self._surface.refuse)
        except Exception:
            structlog.get_logger("sluice").exception("bug", path=scope["path"])
            if not sink.started:
                bug = GatewayError("Something went wrong here.")
                await refuse(sink, bug, self._surface.refuse)
            elif turn is None:
                raise
            # else uvicorn sees an answer that is not complete, and closes the connection
        finally:
            services.lifecycle.in_flight -= 1

    async def _serve(self, scope: Scope, receive: Receive, sink: Sink, turn: Turn | None) -> None:
        services = self._services
        arrived: float = scope["sluice.began"]
        headers = headers_of(scope)
        principal = await identify(services, headers)
        if services.lifecycle.draining:
            raise Draining
        raw = None if turn is None else whole_body(services, headers, turn)
        if raw is None:
            raw = await read_body(services, headers, receive)
        draft = await self._surface.read(raw, Asker(principal, headers, services))
        draft = await guarded(services.settings, principal, draft)
        call = make_call(services, principal, draft, headers, scope["sluice.id"], arrived)
        with _Listening(turn, receive) as caller:
            try:
                await (draft.serve or services.pipeline.serve)(call, sink)
            except asyncio.CancelledError:
                if not caller.has_left:
                    raise
                task = asyncio.current_task()
                if task is not None:
                    task.uncancel()
                if isinstance(sink, AsgiSink):
                    sink.abandon()


class CallAnswer(Response):
    """The answer of an endpoint that is an inference route; the work is done while it is sent."""

    def __init__(self, request: Request, surface: Surface) -> None:
        self._route = CallRoute(request.app.state.services, surface)
        self.background = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI: serve the call."""
        await self._route(scope, receive, send)


def headers_of(scope: Scope) -> Mapping[str, str]:
    """Give a request's headers by their names in small letters; of several, the first one.

    A dictionary made once: Starlette's own looks through all headers whenever one is asked for.
    """
    return {k.decode("latin-1"): v.decode("latin-1") for k, v in reversed(scope["headers"])}


async def identify(services: Services, headers: Mapping[str, str]) -> Principal:
    """Find out who calls, by `Authorization: Bearer` or Anthropic's `x-api-key`."""
    authorization, api_key = headers.get("authorization"), headers.get("x-api-key")
    return await services.authenticator.identify(
        authorization.encode("latin-1") if authorization is not None else None,
        api_key.encode("latin-1") if api_key is not None else None,
    )


def whole_body(services: Services, headers: Mapping[str, str], turn: Turn) -> bytes | None:
    """Give a JSON body that is there already, within the operator's bounds; None where it isn't."""
    _check_head(headers, services.settings.limits.body_bytes)
    body = turn.whole_body()
    if body is not None and len(body) > services.settings.limits.body_bytes:
        raise _too_large(services.settings.limits.body_bytes)
    return body


def _check_head(headers: Mapping[str, str], most_bytes: int) -> None:
    kind = headers.get("content-type", "application/json")
    if kind != "application/json":
        kind = (kind or "application/json").partition(";")[0].strip().lower()
        if kind != "application/json" and not kind.endswith("+json"):
            raise UnsupportedMediaType("The content type must be application/json.")
    declared = headers.get("content-length", "0")
    if declared.isdecimal() and int(declared) > most_bytes:
        raise _too_large(most_bytes)


def _too_large(most_bytes: int) -> BodyTooLarge:
    return BodyTooLarge(f"Bodies are limited to {most_bytes} bytes.")


async def read_body(services: Services, headers: Mapping[str, str], receive: Receive) -> bytes:
    """Read a JSON body within the operator's bounds."""
    limits = services.settings.limits
    _check_head(headers, limits.body_bytes)
    pieces: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(limits.body_timeout_s):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise RequestTimeout("The caller left before its request was complete.")
                piece = message.get("body", b"")
                size += len(piece)
                if size > limits.body_bytes:
                    raise _too_large(limits.body_bytes)
                pieces.append(piece)
                if not message.get("more_body", False):
                    return pieces[0] if len(pieces) == 1 else b"".join(pieces)
    except TimeoutError:
        raise RequestTimeout("The request's body did not arrive in time.") from None


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


async def refuse(sink: Sink, error: GatewayError, words: Refuse = openai_refusal) -> None:
    """Answer with an error."""
    body, more = words(error)
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        *((k.encode(), v.encode()) for k, v in more.items()),
    ]
    await sink.start(error.status, headers)
    await sink.finish(body)


class _Listening:
    """Cancels the current task when its caller leaves; `has_left` tells why it was cancelled."""

    def __init__(self, turn: Turn | None, receive: Receive) -> None:
        self.has_left = False
        self._turn = turn
        self._connection = None if turn is None else turn.connection
        self._receive = receive
        self._listener: asyncio.Task[None] | None = None
        self._task = asyncio.current_task()

    def __enter__(self) -> "_Listening":
        if self._connection is None:
            self._listener = asyncio.create_task(self._listen())
        elif self._connection.transport.is_closing():
            self._leave()
        else:
            self._connection.on_lost = self._leave
        return self

    def __exit__(self, *_: object) -> None:
        if self._connection is not None:
            self._connection.on_lost = None
        if self._listener is not None:
            self._listener.cancel()
        self._task = None

    def _leave(self) -> None:
        self.has_left = True
        if self._turn is not None:
            self._turn.cycle.disconnected = True  # before uvicorn asks for the rest of the answer
        if self._task is not None:
            self._task.cancel()

    async def _listen(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._leave()
