"""What may an operator set, within which bounds, and what holds when nothing is set?

The models here are read once, by `gateway.config.load`, and never change afterwards. A field's
description is the text of docs/configuration.md. The sections lie beside this module, by what they
are about: `settings_serving`, `settings_promises`, `settings_models`, `settings_jobs`.
"""

from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, SecretStr, ValidationInfo, model_validator
from pydantic_core import PydanticCustomError

from backends.fleet import Replica
from backends.registry import replica_id
from backends.slo import Class, WhenLate
from gateway.settings_jobs import ArtifactSettings, FetchSettings, JobSettings, WebhookSettings
from gateway.settings_models import ModelSettings, ProfilePath, SiteSettings
from gateway.settings_promises import ClassSettings, TenantSettings, with_default_classes
from gateway.settings_serving import (
    Cors,
    Explain,
    Forwarded,
    Isolation,
    Limits,
    Queue,
    Responses,
    Retries,
    Routing,
    Telemetry,
    Timeouts,
    Tls,
    Upstream,
)
from gateway.settings_types import FrozenMap, Name, Port, Section, is_loopback, read_secret


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
    cors: Cors = Field(Cors(), description="Pages in a browser that may call the API.")
    audit_file: Path | None = Field(
        None, description="Changes by the admin API are appended here, one JSON line each."
    )
    classes: Annotated[FrozenMap[Name, ClassSettings], BeforeValidator(with_default_classes)] = (
        Field({}, description="Promises by name, laid over MLPerf's interactive, server, offline.")
    )
    default_class: str = Field("server", description="Class of a key that names none.")
    models: FrozenMap[Name, ModelSettings] = Field({}, description="Models by public id.")
    profiles: tuple[ProfilePath, ...] = Field(
        (), description="Files of `sluice calibrate`: how fast a model is on a kind of GPU."
    )
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
            if each.demote_to is not None and each.when_late is WhenLate.SERVE:
                raise PydanticCustomError(
                    "when_late",
                    "allowed with demote_to: refuse",
                    {"field": f"classes.{name}.when_late", "found": each.when_late.value},
                )
        return self

    def classes_by_name(self) -> dict[str, Class]:
        """Give the classes as the rest of the code knows them."""
        return {name: each.promise(name) for name, each in self.classes.items()}

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
