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
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from backends.simulated.server import serve_replicas
from backends.simulated.settings import SimulatedSettings
from tests.gateways import running_gateway
from tests.waiting import eventually

TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SECRET = "words of a caller that nobody else may read"


class Receiver:
    """Takes spans over OTLP/HTTP."""

    def __init__(self) -> None:
        self.url = ""
        self.spans: list[Span] = []
        self.services: list[str] = []  # of each span, who sent it

    async def take(self, request: web.Request) -> web.Response:
        """Read one export."""
        body = await request.read()
        if request.headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        found = ExportTraceServiceRequest.FromString(body)
        for resource in found.resource_spans:
            names = {each.key: each.value.string_value for each in resource.resource.attributes}
            for scope in resource.scope_spans:
                self.spans += scope.spans
                self.services += [names["service.name"]] * len(scope.spans)
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
            accept = {"accept": "application/openmetrics-text"}
            async with session.get(f"{gateway.url}/metrics", headers=accept) as answer:
                metrics = await answer.text()
        await eventually(lambda: len(receiver.spans) >= 2, within_s=30)
    server, client = sorted(receiver.spans, key=lambda span: span.kind)
    assert (server.kind, client.kind) == (Span.SPAN_KIND_SERVER, Span.SPAN_KIND_CLIENT)
    assert {server.trace_id.hex(), client.trace_id.hex()} == {TRACE}
    assert server.parent_span_id.hex() == CALLER
    assert client.parent_span_id == server.span_id
    # What the engine gets names the attempt's span as its parent: its own spans hang below it.
    assert engine.headers[0]["traceparent"] == f"00-{TRACE}-{client.span_id.hex()}-01"
    # The metrics lead to that trace, and to no other.
    exemplars = [
        (sample.name, sample.exemplar.labels["trace_id"])
        for family in text_string_to_metric_families(metrics)  # type: ignore[no-untyped-call]
        for sample in family.samples
        if sample.exemplar is not None
    ]
    assert {trace for _, trace in exemplars} == {TRACE}
    assert "gen_ai_server_request_duration_seconds_bucket" in {name for name, _ in exemplars}
    told = b"".join(span.SerializeToString() for span in receiver.spans)
    assert SECRET.encode() not in told


@pytest.mark.parametrize("stream", [False, True])
async def test_the_replica_s_span_hangs_below_the_attempt_that_it_answers(
    receiver: Receiver, redis_url: str, stream: bool
) -> None:
    simulated = SimulatedSettings(
        model="m", mean_output_tokens=3, otlp_traces_endpoint=receiver.url
    )
    telemetry = {"otlp_endpoint": receiver.url, "trace_ratio": 1.0}
    body = {"model": "m", "stream": stream, "messages": [{"role": "user", "content": SECRET}]}
    async with (
        serve_replicas(simulated) as (replica,),
        running_gateway(redis_url, {"m": [replica.url]}, telemetry=telemetry) as gateway,
        aiohttp.ClientSession() as session,
    ):
        async with session.post(f"{gateway.url}/v1/chat/completions", json=body) as answer:
            await answer.read()
            assert answer.status == 200
        await eventually(lambda: len(receiver.spans) >= 3, within_s=30)
    assert sorted(receiver.services) == ["sglang", "sluice", "sluice"]
    told = zip(receiver.services, receiver.spans, strict=True)
    spans = {(service, span.kind): span for service, span in told}
    arrival = spans["sluice", Span.SPAN_KIND_SERVER]
    attempt = spans["sluice", Span.SPAN_KIND_CLIENT]
    served = spans["sglang", Span.SPAN_KIND_SERVER]
    assert not arrival.parent_span_id
    assert attempt.parent_span_id == arrival.span_id
    assert served.parent_span_id == attempt.span_id
    assert {arrival.trace_id, attempt.trace_id, served.trace_id} == {arrival.trace_id}
    assert not [span for span in receiver.spans if SECRET.encode() in span.SerializeToString()]
