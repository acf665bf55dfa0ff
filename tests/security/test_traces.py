"""Does a trace of one call lead from the caller through the gateway to the engine?

The receiver is real HTTP, and reads what is sent with OpenTelemetry's own messages.
"""

import gzip
from collections.abc import AsyncIterator

import aiohttp
import pytest
from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.gateways import running_gateway
from tests.waiting import eventually

TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SECRET = "words of a caller that nobody else may read"


class Receiver:
    """Takes spans over OTLP/HTTP."""

    def __init__(self) -> None:
        self.url = ""
        self.spans: list[Span] = []

    async def take(self, request: web.Request) -> web.Response:
        """Read one export."""
        body = await request.read()
        if request.headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        found = ExportTraceServiceRequest.FromString(body)
        for resource in found.resource_spans:
            for scope in resource.scope_spans:
                self.spans += scope.spans
        return web.Response(
            body=ExportTraceServiceResponse().SerializeToString(),
            content_type="application/x-protobuf",
        )


class Engine:
    """Answers chats, and remembers the headers that came with them."""

    def __init__(self) -> None:
        self.url = ""
        self.headers: list[dict[str, str]] = []

    async def chat(self, request: web.Request) -> web.Response:
        """Answer one chat."""
        self.headers.append({k.lower(): v for k, v in request.headers.items()})
        message = {"role": "assistant", "content": "hello"}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        usage = {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4}
        return web.json_response(
            {"id": "x", "object": "chat.completion", "choices": [choice], "usage": usage}
        )

    async def fine(self, _: web.Request) -> web.Response:
        """Be ready and healthy."""
        return web.Response()


async def _serve(app: web.Application) -> tuple[web.AppRunner, str]:
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    return runner, f"http://127.0.0.1:{runner.addresses[0][1]}"


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    """A receiver of spans."""
    found = Receiver()
    app = web.Application()
    app.router.add_post("/v1/traces", found.take)
    runner, found.url = await _serve(app)
    yield found
    await runner.cleanup()


@pytest.fixture
async def engine() -> AsyncIterator[Engine]:
    """An engine."""
    found = Engine()
    app = web.Application()
    app.router.add_post("/v1/chat/completions", found.chat)
    app.router.add_get("/ready", found.fine)
    app.router.add_get("/health", found.fine)
    runner, found.url = await _serve(app)
    yield found
    await runner.cleanup()


async def test_one_trace_leads_from_the_caller_to_the_engine(
    receiver: Receiver, engine: Engine, redis_url: str
) -> None:
    telemetry = {"otlp_endpoint": receiver.url, "trace_ratio": 0.0}
    body = {"model": "m", "messages": [{"role": "user", "content": SECRET}]}
    async with running_gateway(redis_url, {"m": [engine.url]}, telemetry=telemetry) as gateway:
        url = f"{gateway.url}/v1/chat/completions"
        headers = {"traceparent": f"00-{TRACE}-{CALLER}-01"}
        async with aiohttp.ClientSession() as session:
            async with session.post(url, json=body, headers=headers) as answer:
                assert answer.status == 200
            # A call that nobody asked to trace has no spans, with a ratio of 0.
            async with session.post(url, json=body) as answer:
                assert answer.status == 200
        await eventually(lambda: len(receiver.spans) >= 2, within_s=30)
    server, client = sorted(receiver.spans, key=lambda span: span.kind)
    assert (server.kind, client.kind) == (Span.SPAN_KIND_SERVER, Span.SPAN_KIND_CLIENT)
    assert {server.trace_id.hex(), client.trace_id.hex()} == {TRACE}
    assert server.parent_span_id.hex() == CALLER
    assert client.parent_span_id == server.span_id
    # What the engine gets names the attempt's span as its parent: its own spans hang below it.
    assert engine.headers[0]["traceparent"] == f"00-{TRACE}-{client.span_id.hex()}-01"
    told = b"".join(span.SerializeToString() for span in receiver.spans)
    assert SECRET.encode() not in told
