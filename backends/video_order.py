"""What is a video, told in full, and what can a model make?"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class VideoLimits:
    """What a model can make, and what it makes when not told. Sizes as `WxH`; frames are 4k+1."""

    sizes: tuple[str, ...] = ("1280x720", "720x1280", "832x480", "480x832")
    fps: int = 16
    most_fps: int = 30
    frames: int = 81
    most_frames: int = 121
    steps: int = 40
    most_steps: int = 50
    guidance_scale: float = 4.0
    guidance_scale_2: float | None = 3.0
    takes_reference: bool = False

    @property
    def most_seconds(self) -> int:
        """The longest clip at the model's own frame rate, in whole seconds."""
        return max(self.most_frames // self.fps, 1)


# Wan-AI/Wan2.2-T2V-A14B: native 81 frames at 16 fps, 40 steps, guidance 4.0 and 3.0 (its model
# card; MLPerf Inference v6.0 runs 20 steps).
KNOWN_LIMITS: Mapping[str, VideoLimits] = {
    "wan-2.2-t2v-a14b": VideoLimits(),
    "tiny-wan": VideoLimits(
        sizes=("64x64", "96x64", "64x96", "128x128"),
        frames=9,
        most_frames=33,
        steps=4,
        most_steps=10,
        guidance_scale_2=None,
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoOrder:
    """One video, told in full."""

    prompt: str
    width: int
    height: int
    frames: int
    fps: int
    steps: int
    seed: int
    guidance_scale: float
    guidance_scale_2: float | None = None
    negative_prompt: str | None = None
    flow_shift: float | None = None

    @property
    def size(self) -> str:
        """As `WxH`."""
        return f"{self.width}x{self.height}"

    @property
    def units(self) -> float:
        """What it costs: pixels x frames x steps; time is nearly linear in it."""
        return float(self.width * self.height * self.frames * self.steps)

    def encode(self) -> dict[str, Any]:
        """As it is kept."""
        return asdict(self)

    @classmethod
    def decode(cls, found: Mapping[str, Any]) -> "VideoOrder":
        """Read what was kept; fields of a later version are left out."""
        return cls(**{name: found[name] for name in cls.__slots__ if name in found})

    def engine_fields(self, model: str) -> dict[str, Any]:
        """Give the body for the engine: the allow-list, nothing else."""
        fields: dict[str, Any] = {
            "model": model,
            "prompt": self.prompt,
            "size": self.size,
            "num_frames": self.frames,
            "fps": self.fps,
            "num_inference_steps": self.steps,
            "seed": self.seed,
            "guidance_scale": self.guidance_scale,
        }
        for name in ("guidance_scale_2", "negative_prompt", "flow_shift"):
            value = getattr(self, name)
            if value is not None:
                fields[name] = value
        return fields
