"""Which span tells of a job's work, and to whose trace is it linked?

The call that made a job has ended long before a worker takes it up, so each claim's span is the
root of a trace of its own and has a link to the span that the creating call came from.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from opentelemetry import trace
from opentelemetry.trace import Link, Span, SpanKind, Status, StatusCode, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from gateway.jobs.model import Claim
from gateway.telemetry import Sampling, is_traceparent

_PROPAGATOR = TraceContextTextMapPropagator()
FAILED = frozenset({"failed", "lost", "returned"})


class JobSpan:
    """The span of one claim, where it is traced."""

    __slots__ = ("_span",)

    def __init__(self, span: Span | None) -> None:
        self._span = span

    def ended(self, how: str) -> None:
        """Note how the claim ended, in the worker's word for it."""
        if self._span is not None:
            self._span.set_attribute("sluice.job.ended", how)
            if how in FAILED:
                self._span.set_status(Status(StatusCode.ERROR, how))


class JobTraces:
    """Makes the spans of jobs: for those whose creating call was traced, and a share of others."""

    def __init__(self, tracer: Tracer, sampling: Sampling) -> None:
        self._tracer = tracer
        self._sampling = sampling

    @contextmanager
    def cover(self, claim: Claim) -> Iterator[JobSpan]:
        """Cover the work on one claim."""
        job = claim.job
        traceparent = job.traceparent if is_traceparent(job.traceparent) else None
        if not self._sampling.takes(traceparent):
            yield JobSpan(None)
            return
        with self._tracer.start_as_current_span(
            f"{job.kind} {job.pool}",
            context=trace.set_span_in_context(trace.INVALID_SPAN),
            kind=SpanKind.CONSUMER,
            links=_links(traceparent),
            attributes={
                "sluice.job.id": job.id,
                "sluice.job.fence": claim.fence,
                "sluice.class": job.class_name,
                "sluice.replica.id": claim.replica_id or "",
                "sluice.request.id": job.request_id,
            },
        ) as span:
            yield JobSpan(span)


def _links(traceparent: str | None) -> list[Link]:
    if traceparent is None:
        return []
    context = _PROPAGATOR.extract({"traceparent": traceparent})
    found = trace.get_current_span(context).get_span_context()
    return [Link(found)] if found.is_valid else []
