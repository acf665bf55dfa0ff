"""What did a call use, and how did it end? Receipts become metrics, spans and log lines."""

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from types import TracebackType
from typing import Protocol

from opentelemetry import trace
from opentelemetry.trace import Span, SpanKind, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from backends.fleet import Replica
from backends.slo import Class
from gateway.afterwards import Later, at_once
from gateway.call import Outcome, Receipt
from gateway.errors import DeadlineExceeded, EngineFailed, GatewayError, StreamBroken
from gateway.promises import kept
from gateway.receipt_words import (
    TraceHeaders,
    carrier_of,
    describe,
    headers_of,
    ids_of,
    line_of,
)
from gateway.telemetry import CallLog, Metrics, Sampling

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
    """One call while it lasts: its receipt, and its span where it is traced."""

    __slots__ = ("_accounting", "_carrier", "_span", "receipt")

    def __init__(
        self,
        accounting: "Accounting",
        receipt: Receipt,
        span: Span | None,
        carrier: Mapping[str, str],
    ) -> None:
        self._accounting = accounting
        self._span = span
        self._carrier = carrier
        self.receipt = receipt

    def __enter__(self) -> "Account":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._accounting.close(self.receipt, self._span, self._carrier, error)

    def attempt(self, replica: Replica) -> AbstractContextManager[TraceHeaders]:
        """Cover one attempt, with a span where the call is traced; gives headers for the engine."""
        receipt = self.receipt
        receipt.attempts += 1
        receipt.replica_id = replica.id
        if self._span is None:
            return nullcontext(headers_of(self._carrier))
        return self._accounting.traced(receipt, replica, self._span)


class Watcher(Protocol):
    """Hears of every call when it is offered and when it has ended."""

    def opened(self, receipt: Receipt) -> None:
        """Hear that a call is offered."""
        ...

    def closed(self, receipt: Receipt, duration_s: float) -> None:
        """Hear how it ended."""
        ...


class Accounting:
    """Opens an account per call and closes it exactly once, however the call ends."""

    def __init__(
        self,
        metrics: Metrics,
        tracer: Tracer,
        sampling: Sampling,
        log: CallLog,
        classes: Mapping[str, Class] | None = None,
        watcher: Watcher | None = None,
        later: Later = at_once,
    ) -> None:
        self._metrics = metrics
        self._watcher = watcher
        self._later = later
        self._classes = classes or {}
        self._tracer = tracer
        self._sampling = sampling
        self._log = log

    def account(self, receipt: Receipt) -> Account:
        """Cover a call from its arrival to its receipt."""
        call = receipt.call
        if self._watcher is not None:
            self._watcher.opened(receipt)
        carrier = carrier_of(call)
        span: Span | None = None
        if self._sampling.takes(carrier.get("traceparent")):
            span = self._tracer.start_span(
                f"{call.operation} {call.model}",
                context=_PROPAGATOR.extract(carrier) if carrier else None,
                kind=SpanKind.SERVER,
            )
        return Account(self, receipt, span, carrier)

    @contextmanager
    def traced(self, receipt: Receipt, replica: Replica, parent: Span) -> Iterator[TraceHeaders]:
        """Cover one attempt of a traced call with a span."""
        call = receipt.call
        with self._tracer.start_as_current_span(
            f"{call.operation} {call.model}",
            context=trace.set_span_in_context(parent),
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
            yield headers_of(carrier)

    def close(
        self,
        receipt: Receipt,
        span: Span | None,
        carrier: Mapping[str, str],
        error: BaseException | None,
    ) -> None:
        """Close a call's account: how it ended is noted now, and written down later."""
        call = receipt.call
        receipt.outcome = outcome_of(error)
        if isinstance(error, GatewayError):
            receipt.error_code = error.code
            receipt.status = receipt.status or error.status
        duration_s = asyncio.get_running_loop().time() - call.arrived
        self._later(partial(self._write, receipt, span, carrier, duration_s))

    def _write(
        self, receipt: Receipt, span: Span | None, carrier: Mapping[str, str], duration_s: float
    ) -> None:
        """Write a call into metrics, its span and one log line."""
        ended_at = receipt.call.arrived_at + duration_s
        self._measure(receipt, duration_s, ids_of(span, {})[0])
        if self._watcher is not None:
            self._watcher.closed(receipt, duration_s)
        if span is not None:
            describe(span, receipt)
            span.end(int(ended_at * 1e9))
        line = line_of(receipt, ids_of(span, carrier), duration_s)
        self._log.write(line, ended_at)

    def _measure(self, receipt: Receipt, duration_s: float, trace_id: str | None) -> None:
        call, metrics = receipt.call, self._metrics
        by = (call.operation, call.model, call.class_name)
        metrics.calls.labels(*by, receipt.outcome).inc()
        seen = (trace_id, call.arrived_at + duration_s)
        metrics.duration.labels(*by, receipt.error_code or "").observe(duration_s, *seen)
        if receipt.ttft_s is not None:
            metrics.ttft.labels(*by).observe(receipt.ttft_s, *seen)
        if receipt.tpot_s is not None:
            metrics.tpot.labels(*by).observe(receipt.tpot_s, *seen)
        if receipt.attempts:
            metrics.queue.labels(*by).observe(receipt.queued_s, *seen)
        if receipt.usage is not None:
            metrics.tokens.labels(*by, "input").observe(receipt.usage.prompt_tokens)
            metrics.tokens.labels(*by, "output").observe(receipt.usage.completion_tokens)
        promise = self._classes.get(call.class_name)
        is_kept = None
        if promise is not None:
            is_kept = kept(receipt, promise.targets(call.model), duration_s)
        if is_kept is not None:
            labels = (call.model, call.class_name, call.principal.tenant)
            metrics.promises.labels(*labels, "true" if is_kept else "false").inc()
