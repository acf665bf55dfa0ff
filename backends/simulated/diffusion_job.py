"""How far is a video of the simulated diffusion server, and how is it shown?"""

from dataclasses import dataclass
from typing import Any


@dataclass(slots=True)
class DiffusionJob:
    """One video: what was asked for, and what came of it so far."""

    id: str
    created_at: int
    model: str
    width: int
    height: int
    frames: int
    fps: int
    steps: int
    status: str = "queued"
    progress: int = 0
    done_steps: int = 0
    completed_at: int | None = None
    error: dict[str, str] | None = None
    aborted: bool = False

    def shown(self) -> dict[str, Any]:
        """Give it in the shape of SGLang's answers."""
        return {
            "id": self.id,
            "object": "video",
            "model": self.model,
            "status": self.status,
            "progress": self.progress,
            "created_at": self.created_at,
            "size": f"{self.width}x{self.height}",
            "seconds": str(round(self.frames / self.fps)),
            "quality": "standard",
            "url": None,
            "urls": [None] if self.completed_at else None,
            "remixed_from_video_id": None,
            "completed_at": self.completed_at,
            "expires_at": None,
            "error": self.error,
            "file_path": f"/srv/outputs/{self.id}.mp4",
            "file_paths": None,
            "num_outputs": 1 if self.completed_at else None,
            "peak_memory_mb": None,
            "inference_time_s": None,
            "revised_prompt": None,
            "action": None,
            "lidar": None,
        }
