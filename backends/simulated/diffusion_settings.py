"""What is a simulated diffusion replica, how fast is it, and what goes wrong there?

Time: MLPerf Inference v6.0, wan-2.2 SingleStream on 8 MI355X, 27.38 s for 1280x720, 81 frames,
20 steps; linear in pixels x frames x steps.
"""

from dataclasses import dataclass, field

MI355X_NODE_S = 27.38
MLPERF_UNITS = 1280 * 720 * 81 * 20


@dataclass(frozen=True, slots=True)
class DiffusionFaults:
    """What goes wrong, on request; rates are shares of jobs."""

    fail_rate: float = 0.0
    refuse_rate: float = 0.0  # 500 on creation
    seed: int = 0


@dataclass(frozen=True, slots=True)
class DiffusionSettings:
    """One simulated replica. `speed` divides its times; `jitter` is their relative spread."""

    model: str = "wan-2.2-t2v-a14b"
    host: str = "127.0.0.1"
    port: int = 0
    replicas: int = 1
    speed: float = 1.0
    fixed_s: float = 1.0
    jitter: float = 0.01
    abortable: bool = False
    api_key: str | None = None
    faults: DiffusionFaults = field(default_factory=DiffusionFaults)

    def step_s(self, pixels_frames: float) -> float:
        """How long one denoising step takes."""
        return pixels_frames * (MI355X_NODE_S - 1.0) / MLPERF_UNITS / self.speed
