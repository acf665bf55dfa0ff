"""What does the OpenAPI document say of videos, files and batches? This is their contract."""

from typing import Any

VIDEO: dict[str, Any] = {
    "type": "object",
    "required": [
        *("id", "object", "created_at", "status", "progress", "model", "prompt", "size"),
        *("seconds", "completed_at", "expires_at", "error"),
    ],
    "properties": {
        "id": {"type": "string"},
        "object": {"const": "video"},
        "created_at": {"type": "integer"},
        "status": {"enum": ["queued", "in_progress", "completed", "failed"]},
        "progress": {"type": "integer", "minimum": 0, "maximum": 100},
        "model": {"type": "string"},
        "prompt": {"type": "string"},
        "size": {"type": "string"},
        "seconds": {"type": "string"},
        "completed_at": {"type": ["integer", "null"]},
        "expires_at": {"type": ["integer", "null"]},
        "error": {
            "type": ["object", "null"],
            "description": "`code` is `cancelled` for a video that was cancelled.",
            "properties": {"code": {"type": "string"}, "message": {"type": "string"}},
        },
        "remixed_from_video_id": {"type": ["string", "null"]},
        "queue_position": {
            "type": ["integer", "null"],
            "description": "Videos that are served before this one; null once it has ended.",
        },
        "eta": {
            "type": ["object", "null"],
            "description": "Between which instants it will be done, 9 times in 10.",
            "properties": {
                "earliest_at": {"type": "number"},
                "likely_at": {"type": "number"},
                "latest_at": {"type": "number"},
                "coverage": {"type": "number"},
            },
        },
        "num_frames": {"type": "integer"},
        "fps": {"type": "integer"},
        "num_inference_steps": {"type": "integer"},
        "seed": {"type": "integer"},
    },
}
_NUMBER: dict[str, Any] = {"type": ["number", "string"]}
_VIDEO_FIELDS: dict[str, Any] = {
    "prompt": {"type": "string", "minLength": 1, "maxLength": 32_000},
    "model": {"type": "string"},
    "seconds": _NUMBER,
    "size": {"type": "string", "pattern": r"^\d+x\d+$"},
    "negative_prompt": {"type": "string"},
    "seed": {"type": ["integer", "string"]},
    "fps": {"type": ["integer", "string"]},
    "num_frames": {"type": ["integer", "string"], "description": "A multiple of 4 plus 1."},
    "num_inference_steps": {"type": ["integer", "string"]},
    "guidance_scale": _NUMBER,
    "guidance_scale_2": _NUMBER,
    "flow_shift": _NUMBER,
    "service_tier": {"type": "string"},
}
_REFERENCE: dict[str, Any] = {
    "description": "An image: a URL (http, https or data), or a file of the tenant.",
    "oneOf": [
        {"type": "string"},
        {
            "type": "object",
            "properties": {"image_url": {"type": "string"}, "file_id": {"type": "string"}},
        },
    ],
}
BATCH_REQUEST: dict[str, Any] = {
    "type": "object",
    "required": ["input_file_id", "endpoint", "completion_window"],
    "additionalProperties": False,
    "properties": {
        "input_file_id": {"type": "string"},
        "endpoint": {
            "enum": [
                *("/v1/chat/completions", "/v1/completions", "/v1/embeddings"),
                *("/v1/responses", "/v1/videos"),
            ]
        },
        "completion_window": {"type": "string", "pattern": r"^[1-9]\d{0,3}[mhd]$"},
        "metadata": {"type": ["object", "null"], "additionalProperties": {"type": "string"}},
        "output_expires_after": {
            "type": "object",
            "properties": {
                "anchor": {"const": "created_at"},
                "seconds": {"type": "integer", "minimum": 3600, "maximum": 2_592_000},
            },
        },
        "idempotency_key": {"type": "string", "minLength": 1, "maxLength": 255},
    },
}
FILE_REQUEST: dict[str, Any] = {
    "type": "object",
    "required": ["file", "purpose"],
    "properties": {
        "file": {"type": "string", "format": "binary"},
        "purpose": {"type": "string"},
        "expires_after[anchor]": {"const": "created_at"},
        "expires_after[seconds]": {"type": "string"},
    },
}
GENERATION_REQUEST: dict[str, Any] = {
    "type": "object",
    "required": ["prompt"],
    "properties": {
        **_VIDEO_FIELDS,
        "response_format": {"enum": ["video_path", "video_bytes"], "default": "video_path"},
        "output_format": {"enum": ["auto", "mp4"], "default": "auto"},
        "boundary_ratio": {"type": "number"},
    },
}


def video_request() -> dict[str, Any]:
    """Describe the body of a video's creation, in both of its forms."""
    properties = {**_VIDEO_FIELDS, "input_reference": _REFERENCE}
    uploaded = {**_VIDEO_FIELDS, "input_reference": {"type": "string", "format": "binary"}}
    whole = {"type": "object", "required": ["prompt"]}
    return body(
        **{
            "application/json": {**whole, "properties": properties},
            "multipart/form-data": {**whole, "properties": uploaded},
        }
    )


def body(**schemas: dict[str, Any]) -> dict[str, Any]:
    """Describe a request's body by content type."""
    content = {kind: {"schema": schema} for kind, schema in schemas.items()}
    return {"requestBody": {"required": True, "content": content}}


def answers(schema: dict[str, Any], text: str = "The answer.") -> dict[int | str, dict[str, Any]]:
    """Describe a route's answer."""
    return {200: {"description": text, "content": {"application/json": {"schema": schema}}}}
