"""What a job's span says, and what it is linked to."""

from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind

from backends.diffusion import DiffusionClient
from backends.fleet import Replica
from backends.video_order import VideoOrder
from gateway.job_traces import JobTraces
from gateway.telemetry import Sampling
from tests.waiting import eventually
from tests.workers import VIDEO_MODEL, running_worker, video_stack

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.fixture
def spans() -> InMemorySpanExporter:
    return InMemorySpanExporter()


def traces(spans: InMemorySpanExporter, ratio: float = 0.0) -> JobTraces:
    """Trace into memory, without a share of those who did not ask for it."""
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(spans))
    return JobTraces(provider.get_tracer("test"), Sampling(ratio))


@pytest.mark.parametrize(
    ("sent", "found"),
    [
        (f"00-{TRACE}-{SPAN}-01", [(TRACE, SPAN)]),
        (f"00-{TRACE}-{SPAN}-00", None),  # not sampled by its caller
        ("no traceparent at all", None),
    ],
)
async def test_a_workers_span_is_linked_to_the_call_that_made_the_job(
    redis_url: str,
    tmp_path: Path,
    spans: InMemorySpanExporter,
    sent: str,
    found: list[tuple[str, str]] | None,
) -> None:
    async with (
        video_stack(redis_url, tmp_path, work=False) as stack,
        aiohttp.ClientSession(base_url=f"{stack.base_url}/") as session,
    ):
        stack.gateway.services.traces = traces(spans)
        body = {"model": VIDEO_MODEL, "prompt": "a cat", "size": "64x64", "num_frames": 5}
        async with session.post("videos", json=body, headers={"traceparent": sent}) as answer:
            assert answer.status == 200, await answer.text()
            video = await answer.json()

        async def is_done() -> bool:
            async with session.get(f"videos/{video['id']}") as answer:
                return bool((await answer.json())["status"] == "completed")

        async with running_worker(stack.gateway):
            await eventually(is_done, within_s=30)
    finished = spans.get_finished_spans()
    if found is None:
        assert not finished
        return
    (span,) = finished
    contexts = [link.context for link in span.links]
    assert [(f"{c.trace_id:032x}", f"{c.span_id:016x}") for c in contexts] == found
    assert (span.name, span.kind, span.parent) == (f"video {VIDEO_MODEL}", SpanKind.CONSUMER, None)
    assert span.context is not None
    assert f"{span.context.trace_id:032x}" != TRACE
    attributes = dict(span.attributes or {})
    assert attributes["sluice.job.id"] == video["id"]
    assert (attributes["sluice.job.fence"], attributes["sluice.job.ended"]) == (1, "completed")


async def test_an_engine_is_told_the_span_of_the_job_that_it_works_for() -> None:
    heard: list[str | None] = []

    async def create(request: web.Request) -> web.Response:
        heard.append(request.headers.get("traceparent"))
        return web.json_response({"id": "v", "status": "queued", "progress": 0})

    app = web.Application()
    app.router.add_post("/v1/videos", create)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    replica = Replica("one", VIDEO_MODEL, f"http://127.0.0.1:{runner.addresses[0][1]}")
    order = VideoOrder(
        prompt="a cat",
        width=832,
        height=480,
        frames=81,
        fps=16,
        steps=40,
        seed=1,
        guidance_scale=4.0,
    )
    tracer = TracerProvider(shutdown_on_exit=False).get_tracer("test")
    try:
        async with aiohttp.ClientSession() as session:
            client = DiffusionClient(session, replica)
            await client.create(order)
            with tracer.start_as_current_span("a job") as span:
                await client.create(order)
    finally:
        await runner.cleanup()
    context = span.get_span_context()
    first, second = heard
    assert first is None
    assert second is not None
    assert second.startswith(f"00-{context.trace_id:032x}-{context.span_id:016x}-")
