"""What do operators see of calls: metrics, spans and log lines, and never a prompt?"""

import logging
import re
import sys
import time
from dataclasses import dataclass
from random import random
from typing import Any

import orjson
import structlog
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.registry import Collector

from gateway.meters import Counts, Spreads

# Buckets of OpenTelemetry's GenAI conventions, with longer ones for waiting and video.
DURATION_S = (
    0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92,
    160, 320, 640, 1280, 2560,
)  # fmt: skip
TTFT_S = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.45, 0.5, 0.75, 1, 2, 2.5, 3, 5, 7.5,
    10, 30,
)  # fmt: skip
TPOT_S = (0.005, 0.01, 0.015, 0.025, 0.04, 0.05, 0.075, 0.08, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5)  # fmt: skip  # noqa: E501
TOKENS = tuple(4**n for n in range(14))
QUEUE_S = (0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)


@dataclass(frozen=True, slots=True)
class Metrics:
    """The instruments of one process, on a registry of their own."""

    registry: CollectorRegistry
    calls: Counts
    duration: Spreads
    ttft: Spreads
    tpot: Spreads
    tokens: Spreads
    queue: Spreads
    attempts: Counts
    waiting: Gauge
    running: Gauge
    ready: Gauge
    refusals: Counts
    promises: Counts

    @classmethod
    def create(cls, first: Collector | None = None) -> "Metrics":
        """Make all instruments; names are OpenTelemetry's where it has one.

        `first` is asked before all others whenever they are read.
        """
        registry = CollectorRegistry()
        if first is not None:
            registry.register(first)
        by = ["gen_ai_operation_name", "gen_ai_request_model", "sluice_class"]

        def histogram(name: str, text: str, bounds: tuple[float, ...], *more: str) -> Spreads:
            return Spreads(name, text, [*by, *more], bounds, registry)

        return cls(
            registry=registry,
            calls=Counts(
                "sluice_calls", "Calls by how they ended.", [*by, "outcome"], registry
            ),
            duration=histogram(
                "gen_ai_server_request_duration_seconds", "From arrival to the last byte.",
                DURATION_S, "error_type",
            ),
            ttft=histogram(
                "gen_ai_server_time_to_first_token_seconds", "From arrival to the first byte.",
                TTFT_S,
            ),
            tpot=histogram(
                "gen_ai_server_time_per_output_token_seconds",
                "Mean time per output token after the first.", TPOT_S,
            ),
            tokens=histogram(
                "gen_ai_client_token_usage", "Tokens that engines report.", TOKENS,
                "gen_ai_token_type",
            ),
            queue=histogram("sluice_queue_seconds", "Time from arrival to a slot.", QUEUE_S),
            attempts=Counts(
                "sluice_attempts", "Attempts on replicas.", ["gen_ai_request_model", "ended"],
                registry,
            ),
            waiting=Gauge(
                "sluice_waiting_calls", "Calls that wait for a slot.", ["gen_ai_request_model"],
                registry=registry,
            ),
            running=Gauge(
                "sluice_running_calls", "Calls that hold a slot.", ["gen_ai_request_model"],
                registry=registry,
            ),
            ready=Gauge(
                "sluice_ready_replicas", "Replicas that may be routed to.",
                ["gen_ai_request_model"], registry=registry,
            ),
            refusals=Counts(
                "sluice_refusals", "Requests answered with an error before they were calls.",
                ["code"], registry,
            ),
            promises=Counts(
                "sluice_promises", "Calls to which something was promised, by whether it was kept.",
                ["gen_ai_request_model", "sluice_class", "sluice_tenant", "kept"], registry,
            ),
        )  # fmt: skip


def tracer_provider(service_name: str, *, otlp_endpoint: str | None) -> TracerProvider:
    """Make the source of spans; which calls have any, `Sampling` says before one is made."""
    provider = TracerProvider(
        sampler=ALWAYS_ON,
        resource=Resource.create({"service.name": service_name}),
        shutdown_on_exit=False,
    )
    if otlp_endpoint:
        exporter = OTLPSpanExporter(endpoint=otlp_endpoint.rstrip("/") + "/v1/traces")
        provider.add_span_processor(BatchSpanProcessor(exporter))
    return provider


_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")


def is_traceparent(text: str | None) -> bool:
    """Whether a header is W3C's `traceparent`."""
    return text is not None and _TRACEPARENT.fullmatch(text) is not None


class Sampling:
    """Which calls are traced: the caller's, if it says so, else a share of all.

    Decided at the head and by hand: OpenTelemetry makes ids and a context for a call that is not
    sampled, too, 7 us of them. `is_on` False (nowhere to send spans to): none.
    """

    def __init__(self, ratio: float, *, is_on: bool = True) -> None:
        self._ratio = ratio if is_on else 0.0
        self._is_on = is_on

    def takes(self, traceparent: str | None) -> bool:
        """Say whether a call is traced, from the caller's W3C header, which must be one."""
        if traceparent is None:
            return self._ratio > 0.0 and random() < self._ratio
        return self._is_on and bool(int(traceparent[53:55], 16) & 1)


def set_up_logs(level: str, form: str) -> None:
    """Write one line per event to stderr, as JSON or for people. Called once per process."""
    renderer: Any = (
        structlog.processors.JSONRenderer(serializer=_json)
        if form == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", key="ts"),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
    logging.basicConfig(level=level.upper(), stream=sys.stderr, format="%(message)s")


def _json(event: Any, **_: object) -> str:
    """Encode a log line; orjson does in 2 us what json does in 15."""
    return orjson.dumps(event, default=repr, option=orjson.OPT_NON_STR_KEYS).decode()


class CallLog:
    """Writes the one line that each call gets, where lines are JSON.

    structlog's chain of processors is for lines that are few: it costs 30 us, this 4.
    """

    def __init__(self, level: str, form: str) -> None:
        self._is_on = level in ("debug", "info")
        self._is_json = form == "json"
        self._log = structlog.get_logger("sluice.call")
        self._second = 0
        self._written = ""

    def write(self, line: dict[str, object], now: float) -> None:
        """Write a call's line; `now` in Unix seconds."""
        if not self._is_on:
            return
        if not self._is_json:
            self._log.info("call", **line)
            return
        line |= {"event": "call", "level": "info", "ts": self._instant(now)}
        out = sys.stderr.buffer
        out.write(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))
        out.flush()

    def _instant(self, now: float) -> str:
        """Give an instant in ISO 8601; the part that lasts a second is worded once."""
        second = int(now)
        if second != self._second:
            self._second = second
            self._written = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        return f"{self._written}.{int((now - second) * 1e6):06d}Z"
