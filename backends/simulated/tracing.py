"""Which spans does a simulated replica send? One per generating request, as SGLang's root span is.

SGLang does so with `--enable-trace`: it takes `traceparent` and `tracestate` of the request as the
parent. Ours goes over OTLP/HTTP.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanKind
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

SERVICE = "sglang"
_PROPAGATOR = TraceContextTextMapPropagator()


class Tracing:
    """The source of a replica's spans; `endpoint` None: there are none."""

    def __init__(self, endpoint: str | None) -> None:
        self._provider: TracerProvider | None = None
        if endpoint is not None:
            resource = Resource.create({"service.name": SERVICE})
            self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
            exporter = OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces")
            self._provider.add_span_processor(BatchSpanProcessor(exporter))

    @contextmanager
    def request(self, headers: Mapping[str, str], rid: str, model: str) -> Iterator[None]:
        """Cover one request, below the span that its headers name."""
        if self._provider is None:
            yield
            return
        names = ("traceparent", "tracestate")
        carrier = {name: headers[name] for name in names if name in headers}
        with self._provider.get_tracer(SERVICE).start_as_current_span(
            f"Req {rid[:8]}",
            context=_PROPAGATOR.extract(carrier),
            kind=SpanKind.SERVER,
            attributes={"rid": rid, "gen_ai.request.model": model},
        ):
            yield

    def close(self) -> None:
        """Send what has not been sent; blocks for as long as that takes."""
        if self._provider is not None:
            self._provider.shutdown()
