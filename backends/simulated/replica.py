"""What does one simulated replica hold, and how does it answer calls?"""

import asyncio
from dataclasses import replace

from aiohttp import HttpVersion11, web

from backends.capacity import StepLaw
from backends.clock import Clock
from backends.simulated.calls import Call, Dialect
from backends.simulated.dialects.chat import ChatDialect
from backends.simulated.dialects.completion import CompletionDialect
from backends.simulated.dialects.messages import MessagesDialect, as_chat
from backends.simulated.dialects.native import NativeDialect
from backends.simulated.driver import Driver
from backends.simulated.orders import Order, Orders
from backends.simulated.pages import Pages, body_of, json_of
from backends.simulated.refusals import QueueIsFull, Refusal
from backends.simulated.settings import Faults, SimulatedSettings
from backends.simulated.striking import Striker
from backends.simulated.tracing import Tracing

_STREAM_HEADERS = {"Content-Type": "text/event-stream; charset=utf-8"}


class SimulatedReplica:
    """One replica: an engine in real time, its calls by rid, and the handlers of their routes;
    `pages` has the others.

    `url` is set once it is served; `faults` may be changed while it runs; `draining` is what
    SIGTERM sets.
    """

    def __init__(self, settings: SimulatedSettings, clock: Clock) -> None:
        self.settings = settings
        self.url = ""
        self.draining = False
        self._clock = clock
        self._striker = Striker(settings.faults)
        self._tracing = Tracing(settings.otlp_traces_endpoint)
        law = settings.profile.law.scaled(settings.throughput_scale)
        self._law = law
        self.driver = Driver(_slowed(law, settings.faults), settings.limits(), clock)
        self.pages = Pages(settings, self.driver, clock)
        self._calls: dict[str, Call] = {}
        self._idle = asyncio.Event()
        self._idle.set()
        self._orders = Orders(settings)
        report = settings.cache_report
        self._chat = ChatDialect(cache_report=report)
        self._completion = CompletionDialect(cache_report=report)
        self._messages = MessagesDialect(cache_report=report)
        self._native = NativeDialect(clock)

    @property
    def live_calls(self) -> int:
        """Generating requests that have not ended."""
        return len(self._calls)

    @property
    def faults(self) -> Faults:
        """What goes wrong at present."""
        return self._striker.faults

    @faults.setter
    def faults(self, faults: Faults) -> None:
        self._striker = Striker(faults)
        self.driver.core.law = _slowed(self._law, faults)

    async def until_idle(self) -> None:
        """Wait until no generating request is in progress."""
        await self._idle.wait()

    def close(self) -> None:
        """End all calls and the engine."""
        for call in list(self._calls.values()):
            call.cancel()
        self.driver.stop()
        self._tracing.close()

    # generating routes

    async def chat(self, request: web.Request) -> web.StreamResponse:
        """POST /v1/chat/completions."""
        body = await body_of(request)
        return await self._serve(request, self._orders.chat(body), self._chat)

    async def completions(self, request: web.Request) -> web.StreamResponse:
        """POST /v1/completions."""
        body = await body_of(request)
        return await self._serve(request, self._orders.completion(body), self._completion)

    async def generate(self, request: web.Request) -> web.StreamResponse:
        """POST /generate."""
        body = await body_of(request)
        return await self._serve(request, self._orders.native(body), self._native)

    async def messages(self, request: web.Request) -> web.StreamResponse:
        """POST /v1/messages."""
        chat = as_chat(await body_of(request))
        return await self._serve(request, self._orders.chat(chat), self._messages)

    async def _serve(
        self, request: web.Request, order: Order, dialect: Dialect
    ) -> web.StreamResponse:
        with self._tracing.request(request.headers, order.rid, self.settings.model):
            return await self._answer(request, order, dialect)

    async def _answer(
        self, request: web.Request, order: Order, dialect: Dialect
    ) -> web.StreamResponse:
        if order.rid in self._calls:
            raise Refusal(f"Duplicate request ID detected: {order.rid}")
        striker = self._striker
        if striker.hits(striker.faults.hang_rate):
            await asyncio.get_running_loop().create_future()
        if striker.hits(striker.faults.fail_rate):
            return web.Response(status=500, text="Internal Server Error")
        fault = striker.stream_fault() if order.stream else None
        call = Call(order, dialect, self.driver, fault)
        self._calls[order.rid] = call
        self._idle.clear()
        try:
            if striker.hits(striker.faults.refuse_rate):
                call.refuse(QueueIsFull())
            else:
                call.start()
        except Refusal:
            self._forget(call)
            raise
        if order.stream:
            return await self._stream(request, call)
        return await self._unary(request, call)

    async def _stream(self, request: web.Request, call: Call) -> web.StreamResponse:
        """Answer with frames; a caller who leaves once they flow ends the call at once."""
        await self._noticed_late(call, call.started)
        response = web.StreamResponse(headers=_STREAM_HEADERS)
        try:
            await response.prepare(request)
            first = call.take()
            if first:
                await response.write(first)
            transport = request.transport
            if transport is None:
                return response
            call.attach(transport, chunked=request.version >= HttpVersion11)
            await call.ended
            await response.write_eof()
            return response
        except ConnectionResetError:  # the caller has left just now
            return response
        finally:
            self._forget(call)

    async def _unary(self, request: web.Request, call: Call) -> web.Response:
        """Answer with a body."""
        await self._noticed_late(call, call.ended)
        self._forget(call)
        return json_of(call.answer())

    async def _noticed_late(self, call: Call, future: asyncio.Future[None]) -> None:
        """Wait for a future; a caller who leaves meanwhile is noticed at SGLang's next poll
        only.
        """
        started_at = self._clock.monotonic()
        try:
            await asyncio.wait((future,))  # which leaves the future alone when it is cancelled
        except asyncio.CancelledError:
            poll_s = self.settings.disconnect_poll_s
            waited_s = self._clock.monotonic() - started_at
            rest_s = poll_s - waited_s % poll_s if poll_s > 0 else 0.0
            asyncio.get_running_loop().call_later(rest_s, self._forget, call)
            call.ended.add_done_callback(lambda _: self._forget(call))
            raise

    def _forget(self, call: Call) -> None:
        """End a call, whatever it is doing, and free its rid."""
        call.cancel()
        call.ended.cancel()  # where it was not: what waits for it would hold the call
        if self._calls.get(call.order.rid) is call:
            del self._calls[call.order.rid]
            if not self._calls:
                self._idle.set()

    async def abort_request(self, request: web.Request) -> web.Response:
        """POST /abort_request: ends every call whose rid begins with the one given; known or
        not, 200.
        """
        body = await body_of(request)
        prefix = str(body.get("rid") or "")
        if prefix or body.get("abort_all"):
            for rid, call in list(self._calls.items()):
                if body.get("abort_all") or rid.startswith(prefix):
                    call.abort()
        return web.Response()

    async def health(self, request: web.Request) -> web.Response:
        """GET /health, /health_generate, /ready: 503 while draining. Unlike SGLang's, /health
        costs no token and no second.
        """
        down = self.draining or self.faults.not_ready
        return web.Response(status=503 if down else 200)


def _slowed(law: StepLaw, faults: Faults) -> StepLaw:
    by = faults.slowdown
    return replace(law.slowed(by), c0_s=law.c0_s * by)
