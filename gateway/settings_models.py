"""What may an operator set of models, of the replicas that others run, and of where they stand?"""

from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import AfterValidator, Field, SecretStr, ValidationInfo, model_validator
from pydantic_core import PydanticCustomError

from backends import measured
from backends.fleet import EngineKind
from backends.measured import BadProfile
from gateway.settings_jobs import VideoSettings
from gateway.settings_types import BaseUrl, Name, Section, read_secret


def _profile(path: Path) -> Path:
    try:
        measured.read([path])
    except BadProfile as error:
        raise PydanticCustomError(
            "profile", "allowed: a file of `sluice calibrate --out` ({why})", {"why": str(error)}
        ) from error
    return path


ProfilePath = Annotated[Path, AfterValidator(_profile)]


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


class SiteSettings(Section):
    """A place where replicas stand."""

    rtt_ms: float = Field(0.0, ge=0, description="Round trip from this gateway.")
