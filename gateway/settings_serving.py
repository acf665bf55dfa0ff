"""What may an operator set of how calls are taken in, waited for, sent on and told of?"""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, model_validator
from pydantic_core import PydanticCustomError

from gateway.settings_types import MIB, BaseUrl, Bytes, Name, Network, Seconds, Section


class Limits(Section):
    """What one caller may send, and how slowly."""

    body_bytes: Bytes = Field(64 * MIB, ge=1024, description="Largest request body; above it 413.")
    header_bytes: Bytes = Field(
        64 * 1024, ge=1024, le=16 * MIB, description="Largest request line and headers; above 431."
    )
    connections: int = Field(20_000, ge=1, description="Open connections of callers per process.")
    head_timeout_s: Seconds = Field(30.0, description="Time for a caller to send its headers.")
    body_timeout_s: Seconds = Field(
        60.0, description="Longest pause of a caller while it sends its body; after it 408."
    )
    keep_alive_s: Seconds = Field(75.0, description="An idle connection is closed after this.")


class Timeouts(Section):
    """How long the gateway waits for a replica, and a shutdown for its streams."""

    connect_s: Seconds = Field(3.0, description="To open a connection to a replica.")
    first_byte_s: Seconds = Field(600.0, description="From sending a call to its first byte.")
    between_bytes_s: Seconds = Field(120.0, description="Longest silence inside an answer.")
    total_s: Seconds = Field(3600.0, description="Longest life of one call, waiting included.")
    drain_s: Seconds = Field(600.0, description="Time for streams to finish after SIGTERM.")


class Upstream(Section):
    """Connections to replicas."""

    idle_s: Seconds = Field(
        4.0,
        description="An idle connection is dropped after this; SGLang closes its own after 5 s.",
    )
    connections_per_replica: int = Field(
        4096, ge=1, description="Open connections to one replica per process."
    )


class Queue(Section):
    """Calls that wait for a slot."""

    max_waiting: int = Field(
        4096,
        ge=0,
        description="Calls of a class and tighter ones that may wait for a model; above it 429.",
    )
    retry_after_s: Seconds = Field(
        5.0, description="Retry-After of a refusal when no better estimate is at hand."
    )


class Retries(Section):
    """What happens when a replica fails before its first byte."""

    attempts: int = Field(
        3, ge=1, le=10, description="Replicas that one call may try, the first included."
    )
    share: float = Field(
        0.1, ge=0, le=1, description="Retries as a share of all calls; ten more are always allowed."
    )


class Routing(Section):
    """How a replica is chosen."""

    policy: Literal["promised", "round_robin", "least_outstanding", "cache_aware"] = Field(
        "promised",
        description="`promised` chooses by what each replica would keep of a call's promise, and "
        "refuses what none can; the others are there to compare with.",
    )


class Explain(Section):
    """Records of what was decided for each call, and why."""

    records_per_s: float = Field(
        50.0,
        ge=0,
        description="Records kept per second by one gateway; calls that went badly come first.",
    )
    ttl_s: Seconds = Field(3600.0, description="A record is kept this long.")
    headers_for: tuple[Name, ...] = Field(
        (), description="Tenants whose answers carry the short form in `x-sluice-*` headers."
    )


class Isolation(Section):
    """What tenants may learn of each other."""

    cache_salt: bool = Field(
        True,
        description="Keep tenants' prefix caches apart inside engines, so that no tenant can tell "
        "by an answer's time what another has asked. The tenant `default` has no salt.",
    )


class Tls(Section):
    """TLS on the API's own port; both files or neither. Read again by a reload."""

    cert_file: Path | None = Field(None, description="Certificate chain, PEM.")
    key_file: Path | None = Field(None, description="Its private key, PEM.")

    @model_validator(mode="after")
    def _both(self) -> Self:
        if (self.cert_file is None) != (self.key_file is None):
            raise PydanticCustomError(
                "tls_half", "allowed: both cert_file and key_file, or neither", {"field": "tls"}
            )
        return self


class Forwarded(Section):
    """Proxies before the gateway, and what they say of callers."""

    trusted: tuple[Network, ...] = Field(
        (),
        description="Addresses and networks whose X-Forwarded-For and X-Forwarded-Proto are "
        "believed; from all others they mean nothing.",
    )


Origin = Annotated[str, StringConstraints(pattern=r"^(\*|https?://[^/\s,]+)$")]


class Cors(Section):
    """Pages in a browser that may call the API."""

    origins: tuple[Origin, ...] = Field(
        (),
        description="Origins such as `https://chat.example.com` whose pages may read answers; `*` "
        "is any. Keys are in no cookie, so that `*` opens nothing but a server without keys.",
    )


class Telemetry(Section):
    """Traces, metrics and logs."""

    otlp_endpoint: BaseUrl | None = Field(
        None, description="OTLP/HTTP collector, such as http://collector:4318; unset: no export."
    )
    trace_ratio: float = Field(
        0.01, ge=0, le=1, description="Share of calls traced when the caller does not say."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Least level that is logged."
    )
    log_format: Literal["json", "console"] = Field("json", description="Form of a log line.")
    service_name: str = Field("sluice", min_length=1, description="`service.name` in telemetry.")


class Responses(Section):
    """Stored answers of /v1/responses."""

    ttl_s: Seconds = Field(30 * 86_400.0, description="A stored response is kept this long.")
    max_bytes: Bytes = Field(
        4 * MIB, ge=1024, description="Largest response that is stored, its input included."
    )
