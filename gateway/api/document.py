"""What does the OpenAPI document say of routes that FastAPI does not parse itself?"""

from typing import Any

import msgspec
from fastapi import FastAPI

from gateway.wire.openai import (
    ChatRequest,
    CompletionRequest,
    EmbeddingsRequest,
    ModelOnly,
    Private,
)
from gateway.wire.rerank import RerankRequest
from gateway.wire.responses.request import UNSERVED, CountTokens, CreateResponse

# The bodies that routes decode by themselves.
STRUCTS = (
    ChatRequest,
    CompletionRequest,
    CountTokens,
    CreateResponse,
    EmbeddingsRequest,
    ModelOnly,
    RerankRequest,
)
_REF = "#/components/schemas/{name}"

ERROR_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}
ANTHROPIC_ERROR_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["type", "error"],
    "properties": {
        "type": {"const": "error"},
        "error": {
            "type": "object",
            "required": ["type", "message"],
            "properties": {"type": {"type": "string"}, "message": {"type": "string"}},
        },
    },
}
# Before OpenAPI 3.2 the schema of a stream describes each event of it.
EVENT_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["data"],
    "properties": {
        "data": {"type": "string", "description": "JSON, or [DONE] at the end."},
        "event": {"type": "string"},
    },
}


def _error(schema: str) -> dict[str, Any]:
    return {
        "description": "An error; its code and the headers say what to do next.",
        "content": {"application/json": {"schema": {"$ref": _REF.format(name=schema)}}},
    }


_ERROR = _error("ErrorResponse")


def described(
    kind: type[msgspec.Struct], *, streams: bool = False, errors: str = "ErrorResponse"
) -> dict[str, Any]:
    """Give the `openapi_extra` of a route: its body by a struct, its answers, its errors."""
    content: dict[str, Any] = {"application/json": {"schema": {"type": "object"}}}
    if streams:
        content["text/event-stream"] = {"schema": EVENT_SCHEMA}
    return {
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": {"$ref": _REF.format(name=kind.__name__)}}},
        },
        "responses": {
            "200": {"description": "The answer.", "content": content},
            "default": _error(errors),
        },
    }


def openapi(app: FastAPI) -> dict[str, Any]:
    """Give the app's document with the structs' schemas; made once, then kept by the app."""
    if app.openapi_schema is not None:
        return app.openapi_schema
    document = FastAPI.openapi(app)
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    schemas["ErrorResponse"] = ERROR_SCHEMA
    schemas["AnthropicErrorResponse"] = ANTHROPIC_ERROR_SCHEMA
    for operations in document["paths"].values():
        for operation in operations.values():
            operation.setdefault("responses", {}).setdefault("default", _ERROR)
            operation["responses"].pop("422", None)
    _, components = msgspec.json.schema_components(STRUCTS, ref_template=_REF)
    for name, schema in components.items():
        hidden = Private.__struct_fields__
        if name == CreateResponse.__name__:
            hidden = (*hidden, *UNSERVED)
        for each in hidden:
            schema.get("properties", {}).pop(each, None)
        schemas[name] = schema
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    document["security"] = [{"key": []}]
    app.openapi_schema = document
    return document
