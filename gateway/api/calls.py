"""How does a request become a call, and a call an answer? One path for every inference route.

A route gives a `Surface`: how it reads its body into a `Draft` and how it words a refusal. Here are
the order of the steps, the caller who hangs up, and what is answered when a step fails.
"""

import asyncio

import structlog
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from gateway.api.drafts import Asker, Refuse, Surface, guarded, make_call
from gateway.api.intake import headers_of, identify, read_body, whole_body
from gateway.api.leaving import Listening
from gateway.direct_sink import DirectSink
from gateway.errors import Draining, GatewayError, StreamBroken
from gateway.protocol import EXTENSION, Turn
from gateway.services import Services
from gateway.sink import AsgiSink, Sink
from gateway.wire.dialects import openai_refusal


class CallRoute:
    """One inference route as an ASGI application, without a router or an endpoint around it."""

    def __init__(self, services: Services, surface: Surface) -> None:
        self._services = services
        self._surface = surface

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI: serve the call."""
        services = self._services
        # Under our own protocol the caller's connection is known, and bytes go straight to it.
        turn: Turn | None = (scope.get("extensions") or {}).get(EXTENSION)
        named = self._surface.id_header
        more = () if named is None else ((named, scope["sluice.id"].encode()),)
        sink: Sink = AsgiSink(send, more)
        if turn is not None:
            more = (*more, *scope.get("sluice.cors", ()))  # others pass the middleware
            sink = DirectSink(turn, scope["sluice.id"], scope["sluice.began"], more)
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
        with Listening(turn, receive) as caller:
            try:
                await (draft.serve or services.pipeline.serve)(call, sink)
            except asyncio.CancelledError:
                if not caller.has_left:
                    raise
                task = asyncio.current_task()
                if task is not None:
                    task.uncancel()  # it was ours, and has done what it was for
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
