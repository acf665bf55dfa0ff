"""What may an operator set of jobs: videos, batches, where their results lie, who is told?"""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, SecretStr, StringConstraints, ValidationInfo, model_validator

from backends.video_order import VideoLimits
from gateway.settings_types import (
    MIB,
    BaseUrl,
    Bytes,
    FrozenMap,
    Name,
    Seconds,
    Section,
    read_secret,
)

DAY_S = 86_400.0
Size = Annotated[str, StringConstraints(pattern=r"^[1-9]\d{1,3}x[1-9]\d{1,3}$")]


class VideoSettings(Section):
    """What a video model may be asked for; what is unset is the model's own, where it is known."""

    sizes: tuple[Size, ...] | None = Field(None, min_length=1, description="Allowed sizes, WxH.")
    fps: int | None = Field(None, ge=1, le=120, description="Frames per second when not told.")
    most_fps: int | None = Field(None, ge=1, le=120, description="Most frames per second.")
    frames: int | None = Field(None, ge=1, description="Frames when neither these nor seconds.")
    most_frames: int | None = Field(None, ge=1, description="Most frames; rounded to 4k+1.")
    steps: int | None = Field(None, ge=1, description="Denoising steps when not told.")
    most_steps: int | None = Field(None, ge=1, description="Most denoising steps.")
    guidance_scale: float | None = Field(None, ge=0, description="Guidance when not told.")
    guidance_scale_2: float | None = Field(
        None, ge=0, description="Guidance of the second expert when not told."
    )
    takes_reference: bool | None = Field(None, description="Whether an image may be given.")
    deadline_s: Seconds = Field(6 * 3600.0, description="A video fails when it takes longer.")

    def limits(self, known: VideoLimits) -> VideoLimits:
        """Lay what is set over what is known of the model."""
        names = VideoLimits.__slots__
        given = {name: value for name in names if (value := getattr(self, name)) is not None}
        base = {name: getattr(known, name) for name in names}
        return VideoLimits(**{**base, **given})


class JobSettings(Section):
    """Durable jobs: videos and batches."""

    lease_s: Seconds = Field(15.0, description="A worker that is not heard of loses its job.")
    attempts: int = Field(3, ge=1, le=20, description="Times that the work itself may fail.")
    losses: int = Field(10, ge=1, le=100, description="Workers that one job may lose.")
    most_waiting: int = Field(10_000, ge=1, description="Waiting jobs per model; above it 429.")
    video_ttl_s: Seconds = Field(DAY_S, description="A video is kept this long after its end.")
    batch_ttl_s: Seconds = Field(30 * DAY_S, description="A batch is kept this long after it.")
    quota_units: float | None = Field(
        None, gt=0, description="Pixels x frames x steps per tenant and window; unset: no limit."
    )
    quota_window_s: Seconds = Field(DAY_S, description="Length of the quota's window.")
    quotas: FrozenMap[Name, float] = Field({}, description="Quotas of tenants by name.")
    restart_s: Seconds = Field(
        180.0,
        description="What starting a video replica again costs: a cancelled video with more"
        " left has its replica started again, where the engine cannot abort.",
    )
    batches_per_worker: int = Field(4, ge=1, description="Batches at work in one worker.")
    rows_in_flight: int = Field(256, ge=1, description="Rows of one batch that run at once.")
    file_bytes: Bytes = Field(200 * MIB, ge=1024, description="Largest file of a batch.")
    rows: int = Field(50_000, ge=1, description="Most rows of a batch.")
    reference_bytes: Bytes = Field(20 * MIB, ge=1024, description="Largest reference image.")


class ArtifactSettings(Section):
    """Where results lie."""

    url: str | None = Field(
        None,
        pattern=r"^s3://[a-z0-9][a-z0-9.-]{1,62}(/[A-Za-z0-9_./-]*)?$",
        description="s3://bucket/prefix; unset: the directory `artifacts` in the data directory.",
    )
    endpoint: BaseUrl | None = Field(None, description="S3-compatible endpoint; unset: AWS.")
    region: str = Field("us-east-1", min_length=1, description="S3 region.")
    access_key_id: str | None = Field(None, description="S3 access key.")
    secret_access_key_file: Path | None = Field(None, description="File with the S3 secret key.")
    secret_access_key_env: str | None = Field(None, description="Variable with the S3 secret key.")
    secret_access_key: SecretStr | None = Field(
        None, description="S3 secret key; in a file only as ${VARIABLE}."
    )
    signed_url_s: Seconds = Field(3600.0, description="A signed URL is good for this long.")

    @model_validator(mode="before")
    @classmethod
    def _read_key(cls, data: Any, info: ValidationInfo) -> Any:
        return read_secret(data, "secret_access_key", info.context)


class WebhookEndpoint(Section):
    """Who is told of ends."""

    url: BaseUrl = Field(description="Where to post; https, except on private networks.")
    secret_file: Path | None = Field(None, description="File with the signing secret.")
    secret_env: str | None = Field(None, description="Variable with the signing secret.")
    secret: SecretStr | None = Field(
        None, description="Signing secret, whsec_<base64>; in a file only as ${VARIABLE}."
    )
    tenant: Name | None = Field(None, description="Whose jobs; unset: everybody's.")
    events: tuple[str, ...] = Field((), description="Events by name; none: all.")

    @model_validator(mode="before")
    @classmethod
    def _read_key(cls, data: Any, info: ValidationInfo) -> Any:
        return read_secret(data, "secret", info.context)


class WebhookSettings(Section):
    """Webhooks, signed as Standard Webhooks."""

    endpoints: tuple[WebhookEndpoint, ...] = Field((), description="Who is told.")
    allow_private: bool = Field(False, description="Allow private and loopback addresses.")
    attempts: int = Field(8, ge=1, le=30, description="Deliveries tried, with growing pauses.")

    @model_validator(mode="after")
    def _have_secrets(self) -> Self:
        for index, endpoint in enumerate(self.endpoints):
            if endpoint.secret is None:
                raise ValueError(f"endpoints.{index}: a secret is required")
        return self


class FetchSettings(Section):
    """Images that callers name by URL."""

    urls: Literal["forbid", "fetch", "pass"] = Field(
        "fetch",
        description="In conversations: `fetch` by the gateway, from public networks, `forbid` or "
        "`pass` on to the engine, which then asks any address that it reaches.",
    )
    most_images: int = Field(8, ge=1, le=256, description="Images by URL in one request.")
    image_bytes: Bytes = Field(20 * MIB, ge=1024, description="Largest image fetched.")
    allow_private: bool = Field(False, description="Allow private and loopback addresses.")
    timeout_s: Seconds = Field(10.0, description="Longest time for one image.")
