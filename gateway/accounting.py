"""What did a call use, and how did it end? Receipts become metrics, spans and log lines."""

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import structlog
from opentelemetry import trace
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from backends.fleet import Replica
from gateway.call import Outcome, Receipt
from gateway.errors import DeadlineExceeded, EngineFailed, GatewayError, StreamBroken
from gateway.telemetry import Metrics

_PROPAGATOR = TraceContextTextMapPropagator()


def outcome_of(error: BaseException | None) -> Outcome:
    """Say how a call ended that ended with this exception."""
    match error:
        case None:
            return Outcome.OK
        case asyncio.CancelledError():
            return Outcome.CALLER_LEFT
        case StreamBroken():
            return Outcome.STREAM_BROKEN
        case DeadlineExceeded():
            return Outcome.TIMED_OUT
        case EngineFailed():
            return Outcome.ENGINE_FAILED
        case GatewayError(status=429 | 503):
            return Outcome.REFUSED
        case GatewayError():
            return Outcome.INVALID
        case _:
            return Outcome.INTERNAL


class Account:
    """One call's span and receipt while it lasts."""

    __slots__ = ("_carrier", "_span", "_tracer", "receipt")

    def __init__(
        self, tracer: Tracer, receipt: Receipt, span: Span, carrier: Mapping[str, str]
    ) -> None:
        self._tracer = tracer
        self._span = span
        self._carrier = carrier
        self.receipt = receipt

    @contextmanager
    def attempt(self, replica: Replica) -> Iterator[tuple[tuple[bytes, bytes], ...]]:
        """Cover one attempt with a span; gives the trace headers for the engine."""
        receipt = self.receipt
        receipt.attempts += 1
        receipt.replica_id = replica.id
        if not self._span.is_recording():
            yield tuple((k.encode(), v.encode()) for k, v in self._carrier.items())
            return
        call = receipt.call
        with self._tracer.start_as_current_span(
            f"{call.operation} {call.model}",
            context=trace.set_span_in_context(self._span),
            kind=SpanKind.CLIENT,
            attributes={
                "gen_ai.operation.name": call.operation,
                "gen_ai.provider.name": replica.engine,
                "server.address": replica.url,
                "sluice.replica.id": replica.id,
                "sluice.attempt": receipt.attempts,
            },
        ):
            carrier: dict[str, str] = {}
            _PROPAGATOR.inject(carrier)
            yield tuple((k.encode(), v.encode()) for k, v in carrier.items())


class Accounting:
    """Opens an account per call and closes it exactly once, however the call ends."""

    def __init__(self, metrics: Metrics, tracer: Tracer) -> None:
        self._metrics = metrics
        self._tracer = tracer
        self._log = structlog.get_logger("sluice.call")

    @contextmanager
    def account(self, receipt: Receipt) -> Iterator[Account]:
        """Cover a call from its arrival to its receipt."""
        call = receipt.call
        named = (("traceparent", call.traceparent), ("tracestate", call.tracestate))
        carrier = {name: value for name, value in named if value}
        span = self._tracer.start_span(
            f"{call.operation} {call.model}",
            context=_PROPAGATOR.extract(carrier) if carrier else None,
            kind=SpanKind.SERVER,
        )
        error: BaseException | None = None
        try:
            yield Account(self._tracer, receipt, span, carrier)
        except BaseException as raised:
            error = raised
            raise
        finally:
            self._close(receipt, span, error)

    def _close(self, receipt: Receipt, span: Span, error: BaseException | None) -> None:
        call = receipt.call
        receipt.outcome = outcome_of(error)
        if isinstance(error, GatewayError):
            receipt.error_code = error.code
            receipt.status = receipt.status or error.status
        duration_s = asyncio.get_running_loop().time() - call.arrived
        self._measure(receipt, duration_s)
        if span.is_recording():
            _describe(span, receipt)
        span.end()
        self._log.info("call", **_line(receipt, span, duration_s))

    def _measure(self, receipt: Receipt, duration_s: float) -> None:
        call, metrics = receipt.call, self._metrics
        by = (call.operation.value, call.model, call.class_name)
        metrics.calls.labels(*by, receipt.outcome.value).inc()
        metrics.duration.labels(*by, receipt.error_code or "").observe(duration_s)
        if receipt.ttft_s is not None:
            metrics.ttft.labels(*by).observe(receipt.ttft_s)
        if receipt.tpot_s is not None:
            metrics.tpot.labels(*by).observe(receipt.tpot_s)
        if receipt.attempts:
            metrics.queue.labels(*by).observe(receipt.queued_s)
        if receipt.usage is not None:
            metrics.tokens.labels(*by, "input").observe(receipt.usage.prompt_tokens)
            metrics.tokens.labels(*by, "output").observe(receipt.usage.completion_tokens)


def _describe(span: Span, receipt: Receipt) -> None:
    call, usage = receipt.call, receipt.usage
    attributes: dict[str, str | int | float | bool | list[str]] = {
        "gen_ai.operation.name": call.operation.value,
        "gen_ai.request.model": call.model,
        "gen_ai.request.stream": call.stream,
        "gen_ai.response.finish_reasons": [*receipt.finish_reasons],
        "http.response.status_code": receipt.status,
        "sluice.class": call.class_name,
        "sluice.outcome": receipt.outcome.value,
        "sluice.queue_s": receipt.queued_s,
        **call.attributes,
    }
    if usage is not None:
        attributes["gen_ai.usage.input_tokens"] = usage.prompt_tokens
        attributes["gen_ai.usage.output_tokens"] = usage.completion_tokens
        attributes["gen_ai.usage.cache_read.input_tokens"] = usage.cached_tokens
    if receipt.ttft_s is not None:
        attributes["gen_ai.response.time_to_first_chunk"] = receipt.ttft_s
    if receipt.error_code is not None:
        attributes["error.type"] = receipt.error_code
    span.set_attributes(attributes)
    if receipt.outcome not in (Outcome.OK, Outcome.CALLER_LEFT):
        span.set_status(Status(StatusCode.ERROR, receipt.outcome.value))


def _line(receipt: Receipt, span: Span, duration_s: float) -> dict[str, object]:
    call, usage, context = receipt.call, receipt.usage, span.get_span_context()
    return {
        "request_id": call.id,
        "trace_id": trace.format_trace_id(context.trace_id),
        "span_id": trace.format_span_id(context.span_id),
        "key_id": call.principal.key_id,
        "tenant": call.principal.tenant,
        "operation": call.operation.value,
        "model": call.model,
        "class": call.class_name,
        "stream": call.stream,
        "outcome": receipt.outcome.value,
        "status": receipt.status,
        "error_code": receipt.error_code,
        "replica": receipt.replica_id,
        "attempts": receipt.attempts,
        "queue_ms": round(receipt.queued_s * 1e3, 3),
        "ttft_ms": _ms(receipt.ttft_s),
        "tpot_ms": _ms(receipt.tpot_s),
        "duration_ms": _ms(duration_s),
        "prompt_tokens": usage.prompt_tokens if usage else None,
        "completion_tokens": usage.completion_tokens if usage else None,
        "cached_tokens": usage.cached_tokens if usage else None,
    }


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1e3, 3)
