"""What may a caller ask of a video, and how is a video shown? Pure.

The contract is ours: OpenAI's fields (`prompt`, `model`, `seconds`, `size`, `input_reference`) plus
the fields of Wan and of MLCommons' client. A value that is not allowed is refused with what is.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from backends.video_order import VideoLimits, VideoOrder
from gateway.errors import InvalidRequest
from gateway.jobs.model import Job

MOST_PROMPT_CHARS = 32_000
_SIZE = re.compile(r"([1-9]\d{0,4})x([1-9]\d{0,4})")

FIELDS = frozenset(
    {
        *("prompt", "model", "seconds", "size", "input_reference", "negative_prompt", "seed"),
        *("fps", "num_frames", "num_inference_steps", "guidance_scale", "guidance_scale_2"),
        *("flow_shift", "n", "num_outputs_per_prompt", "service_tier", "user", "metadata"),
        *("width", "height", "quality", "safety_identifier"),
    }
)
GENERATION_FIELDS = FIELDS | {
    *("boundary_ratio", "latent_path", "output_format", "response_format"),
}
BOUNDARY_RATIO = 0.875  # of Wan2.2-T2V-A14B; part of the engine's configuration


@dataclass(frozen=True, slots=True)
class Asked:
    """A video as it was asked for; `tier` and `user` are not the engine's matter."""

    order: VideoOrder
    tier: str | None


def read_order(
    fields: Mapping[str, Any],
    limits: VideoLimits,
    *,
    seed: int,
    known: frozenset[str] = FIELDS,
) -> Asked:
    """Read an order within a model's limits; `seed` is taken where none was given.

    Values may be texts, as forms bring them. Raises InvalidRequest, which names what is allowed.
    """
    for name in fields:
        if name.partition("[")[0] not in known:
            raise InvalidRequest(
                f"Unknown parameter: '{name[:100]}'.", param=name[:100], code="unknown_parameter"
            )
    prompt = _text(fields, "prompt", most=MOST_PROMPT_CHARS)
    if not prompt:
        raise InvalidRequest(
            "Missing required parameter: 'prompt'.",
            param="prompt",
            code="missing_required_parameter",
        )
    for name in ("n", "num_outputs_per_prompt"):
        if _whole(fields, name, 1, 1, 1) != 1:
            raise InvalidRequest("One video per request is made.", param=name)
    width, height = _size(fields, limits)
    fps = _whole(fields, "fps", limits.fps, 1, limits.most_fps)
    order = VideoOrder(
        prompt=prompt,
        width=width,
        height=height,
        frames=_frames(fields, limits, fps),
        fps=fps,
        steps=_whole(fields, "num_inference_steps", limits.steps, 1, limits.most_steps),
        seed=_whole(fields, "seed", seed, 0, 2**63 - 1),
        guidance_scale=_number(fields, "guidance_scale", limits.guidance_scale, 0, 100) or 0.0,
        guidance_scale_2=_number(fields, "guidance_scale_2", limits.guidance_scale_2, 0, 100),
        negative_prompt=_text(fields, "negative_prompt", most=MOST_PROMPT_CHARS) or None,
        flow_shift=_number(fields, "flow_shift", None, 0, 100),
    )
    return Asked(order, _text(fields, "service_tier", most=50) or None)


def shown(job: Job, *, extra: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Give a video as callers see it."""
    order = VideoOrder.decode(job.payload["order"])
    error = None
    if job.error is not None:
        error = {"code": job.error.code, "message": job.error.message}
    return {
        "id": job.id,
        "object": "video",
        "created_at": int(job.created_at),
        "status": str(job.status),
        "progress": job.progress if job.status != "queued" else 0,
        "model": job.pool,
        "prompt": order.prompt,
        "size": order.size,
        "seconds": seconds_of(order),
        "completed_at": _instant(job.ended_at) if job.status == "completed" else None,
        "expires_at": _instant(job.expires_at),
        "error": error,
        "remixed_from_video_id": None,
        "num_frames": order.frames,
        "fps": order.fps,
        "num_inference_steps": order.steps,
        "seed": order.seed,
        **(extra or {}),
    }


def seconds_of(order: VideoOrder) -> str:
    """Give the length of the clip; the first frame is its beginning."""
    return f"{max(order.frames - 1, 1) / order.fps:g}"


def _frames(fields: Mapping[str, Any], limits: VideoLimits, fps: int) -> int:
    """Find the number of frames: told, else by the seconds, else the model's own."""
    if _given(fields, "num_frames"):
        frames = _whole(fields, "num_frames", limits.frames, 1, limits.most_frames)
        if frames % 4 != 1:
            near = frames // 4 * 4 + 1
            raise InvalidRequest(
                f"Invalid 'num_frames': {frames}; a multiple of 4 plus 1 is allowed, such as"
                f" {near}.",
                param="num_frames",
            )
        return frames
    if not _given(fields, "seconds"):
        return min(limits.frames, limits.most_frames)
    seconds = _number(fields, "seconds", 0.0, 0, 1e6) or 0.0
    frames = max(round(seconds * fps / 4), 0) * 4 + 1
    if seconds <= 0 or frames > limits.most_frames:
        longest = (limits.most_frames - 1) / fps
        raise InvalidRequest(
            f"Invalid 'seconds': {fields['seconds']}; above 0 and up to {longest:g} is allowed at"
            f" {fps} frames per second.",
            param="seconds",
        )
    return frames


def _size(fields: Mapping[str, Any], limits: VideoLimits) -> tuple[int, int]:
    text = _text(fields, "size", most=50)
    if not text and _given(fields, "width") and _given(fields, "height"):
        text = f"{fields['width']}x{fields['height']}"
    text = text or limits.sizes[0]
    found = _SIZE.fullmatch(text)
    if found is None or text not in limits.sizes:
        raise InvalidRequest(
            f"Invalid 'size': '{text}'; allowed: {', '.join(limits.sizes)}.", param="size"
        )
    return int(found[1]), int(found[2])


def _given(fields: Mapping[str, Any], name: str) -> bool:
    return fields.get(name) not in (None, "")


def _text(fields: Mapping[str, Any], name: str, *, most: int) -> str:
    value = fields.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise InvalidRequest(f"Invalid '{name}': a text.", param=name, code="invalid_type")
    if len(value) > most:
        raise InvalidRequest(f"Invalid '{name}': up to {most} characters.", param=name)
    return value


def _whole(fields: Mapping[str, Any], name: str, default: int, least: int, most: int) -> int:
    if not _given(fields, name):
        return default
    value = fields[name]
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    try:
        if isinstance(value, bool) or not isinstance(value, int | str):
            raise ValueError
        number = int(value)
    except ValueError:
        raise InvalidRequest(
            f"Invalid '{name}': a whole number from {least} to {most}.",
            param=name,
            code="invalid_type",
        ) from None
    if not least <= number <= most:
        raise InvalidRequest(
            f"Invalid '{name}': {number}; {least} to {most} is allowed.", param=name
        )
    return number


def _number(
    fields: Mapping[str, Any], name: str, default: float | None, least: float, most: float
) -> float | None:
    if not _given(fields, name):
        return default
    value = fields[name]
    try:
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            raise ValueError
        number = float(value)
    except ValueError:
        raise InvalidRequest(
            f"Invalid '{name}': a number.", param=name, code="invalid_type"
        ) from None
    if not (math.isfinite(number) and least <= number <= most):
        raise InvalidRequest(
            f"Invalid '{name}': {number:g}; {least:g} to {most:g} is allowed.", param=name
        )
    return number


def _instant(value: float | None) -> int | None:
    return None if value is None else int(value)
