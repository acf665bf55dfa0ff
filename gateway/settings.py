"""What may an operator set, within which bounds, and what holds when nothing is set?

The models here are read once, by `gateway.config.load`, and never change afterwards. A field's
description is the text of docs/configuration.md.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, SecretStr, ValidationInfo, model_validator
from pydantic_core import PydanticCustomError

from backends.fleet import EngineKind, Replica
from backends.registry import replica_id
from backends.slo import MLPERF_CLASSES, Class, Targets
from gateway.call import Quota
from gateway.settings_jobs import (
    ArtifactSettings,
    FetchSettings,
    JobSettings,
    VideoSettings,
    WebhookSettings,
)
from gateway.settings_types import (
    MIB,
    BaseUrl,
    Bytes,
    FrozenMap,
    Name,
    Network,
    Port,
    Seconds,
    Section,
    is_loopback,
    read_secret,
)


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

    max_waiting: int = Field(4096, ge=0, description="Waiting calls per model; above it 429.")
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


class TargetSettings(Section):
    """The limits promised to a class; nothing given: no promise."""

    ttft_ms: float | None = Field(None, gt=0, description="Time to the first token.")
    tpot_ms: float | None = Field(None, gt=0, description="Time per output token after the first.")
    deadline_s: float | None = Field(None, gt=0, description="Time to the last token.")
    percentile: float = Field(
        0.99, gt=0, lt=1, description="The share of calls that must keep within the limits."
    )

    def targets(self) -> Targets:
        """Give them in seconds."""
        return Targets(
            ttft_s=None if self.ttft_ms is None else self.ttft_ms / 1000,
            tpot_s=None if self.tpot_ms is None else self.tpot_ms / 1000,
            deadline_s=self.deadline_s,
            percentile=self.percentile,
        )


class ClassSettings(Section):
    """A named promise."""

    rank: int = Field(ge=0, description="Lower is served first.")
    patience_s: Seconds = Field(30.0, description="Longest wait in the queue.")
    coalesce_ms: float = Field(
        0.0,
        ge=0,
        le=1000,
        description="Chunks of a stream are gathered this long, never the first or last; 0: not.",
    )
    demote_to: Name | None = Field(
        None, description="Class under which a call goes on that this one cannot keep."
    )
    hedge: bool = Field(
        False, description="Ask a second replica where a stream's first byte is late."
    )
    targets: FrozenMap[Name, TargetSettings] = Field(
        {}, description="Limits by model id; those under `default` hold for all other models."
    )


class ReplicaSettings(Section):
    """A replica that someone else runs, adopted by its URL."""

    url: BaseUrl = Field(description="Base URL, such as http://node-1:30000.")
    site: Name = Field("local", description="Where it stands; see `sites`.")
    max_running: int = Field(
        0, ge=0, description="Calls that may run on it at once; 0: what it reports."
    )
    api_key_file: Path | None = Field(None, description="File that holds the replica's API key.")
    api_key_env: str | None = Field(
        None, description="Environment variable that holds the replica's API key."
    )
    api_key: SecretStr | None = Field(
        None, description="The replica's API key; in a file only as ${VARIABLE}."
    )

    @model_validator(mode="before")
    @classmethod
    def _read_key(cls, data: Any, info: ValidationInfo) -> Any:
        return read_secret(data, "api_key", info.context)


class ModelSettings(Section):
    """A model, and the replicas of it that someone else runs."""

    engine: EngineKind = Field(
        EngineKind.SGLANG, description="Software of the replicas named here."
    )
    hardware: Name = Field("mi355x", description="Generation of GPU of the replicas named here.")
    served_name: str | None = Field(
        None, min_length=1, description="The model's name inside the engine, where it differs."
    )
    context_length: int | None = Field(
        None, ge=1, description="Tokens of prompt and answer together; unset: what replicas say."
    )
    max_running: int = Field(
        0, ge=0, description="Calls that may run at once on a replica that does not say its own."
    )
    stream_interval: int | None = Field(
        None,
        ge=1,
        description="Tokens per streamed chunk that the replicas were started with: a note only, "
        "set by `sluice replica sglang --stream-interval`.",
    )
    owned_by: str = Field("sluice", min_length=1, description="`owned_by` in /v1/models.")
    replicas: tuple[ReplicaSettings, ...] = Field((), description="Replicas adopted by URL.")
    video: VideoSettings | None = Field(None, description="What may be asked of a video model.")

    @model_validator(mode="after")
    def _each_url_once(self) -> Self:
        urls = [replica.url for replica in self.replicas]
        for index, url in enumerate(urls):
            if url in urls[:index]:
                raise PydanticCustomError(
                    "url_twice",
                    "allowed: each URL once per model",
                    {"field": f"replicas.{index}.url", "found": url},
                )
        return self


class TenantSettings(Section):
    """Whose calls share a budget, and how much of the fleet is theirs when all want more."""

    weight: float = Field(
        1.0, gt=0, le=1e6, description="Share of a class's slots against the other tenants'."
    )
    requests_per_min: int | None = Field(None, ge=0, description="Requests per minute.")
    tokens_per_min: int | None = Field(
        None, ge=0, description="Tokens of prompts and answers per minute."
    )
    concurrency: int | None = Field(None, ge=0, description="Calls at once.")
    tokens_per_day: int | None = Field(None, ge=0, description="Tokens per day (UTC).")
    tokens_per_month: int | None = Field(None, ge=0, description="Tokens per month (UTC).")

    def quota(self) -> Quota | None:
        """Give its limits; None where there are none."""
        return Quota(
            self.requests_per_min,
            self.tokens_per_min,
            self.concurrency,
            self.tokens_per_day,
            self.tokens_per_month,
        ).or_none()


class SiteSettings(Section):
    """A place where replicas stand."""

    rtt_ms: float = Field(0.0, ge=0, description="Round trip from this gateway.")


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


def _default_classes() -> dict[str, Any]:
    """Give MLPerf's classes in the form of a file."""
    return {
        each.name: {
            "rank": each.rank,
            "patience_s": each.patience_s,
            "demote_to": each.demote_to,
            "targets": {
                name: {
                    "ttft_ms": None if t.ttft_s is None else t.ttft_s * 1000,
                    "tpot_ms": None if t.tpot_s is None else t.tpot_s * 1000,
                    "deadline_s": t.deadline_s,
                    "percentile": t.percentile,
                }
                for name, t in (("default", each.default), *each.by_model)
            },
        }
        for each in MLPERF_CLASSES
    }


def _with_default_classes(value: object) -> object:
    """Lay what is given over MLPerf's classes, key by key; a class of another name is added."""
    if not isinstance(value, Mapping):
        return value
    known = _default_classes()
    for name, given in value.items():
        known[name] = {**known.get(name, {}), **given} if isinstance(given, Mapping) else given
    return known


class Settings(Section):
    """All that one gateway is told."""

    host: str = Field("127.0.0.1", min_length=1, description="Address to listen on.")
    port: Port = Field(8000, description="Port of the API; 0: any free one.")
    admin_host: str = Field(
        "127.0.0.1", min_length=1, description="Address of the admin API and of /metrics."
    )
    admin_port: Port = Field(8001, description="Port of the admin API; 0: any free one.")
    workers: int = Field(1, ge=1, le=256, description="Processes that serve the port.")
    no_auth: bool = Field(False, description="Serve without keys; on a loopback address only.")
    redis_url: str | None = Field(
        None,
        repr=False,
        pattern=r"^(redis|rediss|unix)://",
        description="Redis or Valkey that all gateways share; REDIS_URL is read too.",
    )
    data_dir: Path | None = Field(
        None, description="Keys, logs and the embedded store; unset: the user's data directory."
    )
    docs: bool = Field(True, description="Serve /docs, /redoc and /openapi.json.")
    admin_key: SecretStr | None = Field(
        None, description="Key of the admin API; in a file only as ${VARIABLE}."
    )
    admin_key_file: Path | None = Field(None, description="File that holds the admin key.")
    limits: Limits = Field(Limits(), description="What callers may send.")
    timeouts: Timeouts = Field(Timeouts(), description="How long the gateway waits.")
    upstream: Upstream = Field(Upstream(), description="Connections to replicas.")
    queue: Queue = Field(Queue(), description="Calls that wait.")
    retries: Retries = Field(Retries(), description="Failures before the first byte.")
    routing: Routing = Field(Routing(), description="The choice of a replica.")
    explain: Explain = Field(Explain(), description="Records of decisions.")
    isolation: Isolation = Field(Isolation(), description="What tenants may learn of each other.")
    tls: Tls = Field(Tls(), description="TLS on the API's own port.")
    forwarded: Forwarded = Field(Forwarded(), description="Proxies before the gateway.")
    audit_file: Path | None = Field(
        None, description="Changes by the admin API are appended here, one JSON line each."
    )
    classes: Annotated[FrozenMap[Name, ClassSettings], BeforeValidator(_with_default_classes)] = (
        Field({}, description="Promises by name, laid over MLPerf's interactive, server, offline.")
    )
    default_class: str = Field("server", description="Class of a key that names none.")
    models: FrozenMap[Name, ModelSettings] = Field({}, description="Models by public id.")
    sites: FrozenMap[Name, SiteSettings] = Field({}, description="Places by name.")
    tenants: FrozenMap[Name, TenantSettings] = Field(
        {}, description="Weights and limits by tenant; one that is not named has weight 1."
    )
    telemetry: Telemetry = Field(Telemetry(), description="Traces, metrics and logs.")
    responses: Responses = Field(Responses(), description="Stored answers of /v1/responses.")
    jobs: JobSettings = Field(default_factory=JobSettings, description="Videos and batches.")
    artifacts: ArtifactSettings = Field(ArtifactSettings(), description="Where results lie.")
    webhooks: WebhookSettings = Field(WebhookSettings(), description="Who is told of ends.")
    fetch: FetchSettings = Field(FetchSettings(), description="Images named by URL.")

    @model_validator(mode="before")
    @classmethod
    def _read_key(cls, data: Any, info: ValidationInfo) -> Any:
        return read_secret(data, "admin_key", info.context)

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.no_auth and not is_loopback(self.host):
            raise PydanticCustomError(
                "no_auth",
                "allowed only with a loopback host, and host is {host}",
                {"field": "no_auth", "found": True, "host": self.host},
            )
        if self.default_class not in self.classes:
            raise PydanticCustomError(
                "default_class",
                "allowed: {names}",
                {
                    "field": "default_class",
                    "found": self.default_class,
                    "names": ", ".join(self.classes),
                },
            )
        for name, each in self.classes.items():
            if each.demote_to is not None and each.demote_to not in self.classes:
                raise PydanticCustomError(
                    "demote_to",
                    "allowed: {names}",
                    {
                        "field": f"classes.{name}.demote_to",
                        "found": each.demote_to,
                        "names": ", ".join(self.classes),
                    },
                )
        return self

    def classes_by_name(self) -> dict[str, Class]:
        """Give the classes as the rest of the code knows them."""
        return {name: _class(name, each) for name, each in self.classes.items()}

    def adopted_replicas(self) -> list[Replica]:
        """Give the replicas that are named by URL; an id follows from model and URL alone."""
        return [
            Replica(
                id=replica_id(name, each.url),
                model=name,
                url=each.url,
                engine=model.engine,
                hardware=model.hardware,
                site=each.site,
                served_name=model.served_name,
                max_running=each.max_running or model.max_running,
                api_key=None if each.api_key is None else each.api_key.get_secret_value(),
            )
            for name, model in self.models.items()
            for each in model.replicas
        ]


def _class(name: str, settings: ClassSettings) -> Class:
    targets = {key: each.targets() for key, each in settings.targets.items()}
    return Class(
        name=name,
        rank=settings.rank,
        default=targets.pop("default", Targets()),
        by_model=tuple(targets.items()),
        patience_s=settings.patience_s,
        demote_to=settings.demote_to,
        hedges=settings.hedge,
    )
