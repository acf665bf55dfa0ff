"""How is a receipt told: in a span and in a log line, and by which trace headers do they meet?"""

from collections.abc import Mapping

from opentelemetry import trace
from opentelemetry.trace import Span, Status, StatusCode

from gateway.call import Call, Outcome, Receipt
from gateway.telemetry import is_traceparent

TraceHeaders = tuple[tuple[bytes, bytes], ...]

MAX_TRACESTATE = 512  # characters; what W3C asks everybody to pass on


def carrier_of(call: Call) -> dict[str, str]:
    """Give the caller's trace headers; those that are not W3C's never were there."""
    if call.traceparent is None or not is_traceparent(call.traceparent):
        return {}
    carrier = {"traceparent": call.traceparent}
    if call.tracestate and len(call.tracestate) <= MAX_TRACESTATE:
        carrier["tracestate"] = call.tracestate
    return carrier


def headers_of(carrier: Mapping[str, str]) -> TraceHeaders:
    """Give trace headers as they are sent to a replica."""
    return tuple((k.encode(), v.encode()) for k, v in carrier.items())


def ids_of(span: Span | None, carrier: Mapping[str, str]) -> tuple[str | None, str | None]:
    """Give the ids of trace and span: ours, else the caller's, else none."""
    if span is not None:
        context = span.get_span_context()
        return trace.format_trace_id(context.trace_id), trace.format_span_id(context.span_id)
    parent = carrier.get("traceparent")
    return (None, None) if parent is None else (parent[3:35], parent[36:52])


def describe(span: Span, receipt: Receipt) -> None:
    """Put a receipt into a span, by OpenTelemetry's names where it has some."""
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
        "sluice.late": receipt.late,
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


def line_of(
    receipt: Receipt, ids: tuple[str | None, str | None], duration_s: float
) -> dict[str, object]:
    """Put a receipt into a log line; `ids` are those of trace and span."""
    call, usage = receipt.call, receipt.usage
    return {
        "request_id": call.id,
        "trace_id": ids[0],
        "span_id": ids[1],
        "key_id": call.principal.key_id,
        "tenant": call.principal.tenant,
        "operation": call.operation,
        "model": call.model,
        "class": call.class_name,
        "stream": call.stream,
        "outcome": receipt.outcome,
        "status": receipt.status,
        "error_code": receipt.error_code,
        "replica": receipt.replica_id,
        "attempts": receipt.attempts,
        "late": receipt.late,
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
