"""Calls for tests of what decides: whose, for what, since when."""

from typing import Any, cast

from gateway.call import Call, Operation, Principal
from gateway.wire.body import Body

ARRIVED = 100.0


def call(**more: Any) -> Call:
    """Make a streaming chat of class `server` for llama2-70b that came at `ARRIVED`."""
    values: dict[str, Any] = {
        "id": "c",
        "key": "k",
        "principal": Principal("key"),
        "operation": Operation.CHAT,
        "path": "/v1/chat/completions",
        "model": "llama2-70b",
        "body": Body(b"{}"),
        "dialect": cast("Any", None),
        "stream": True,
        "class_name": "server",
        "arrived": ARRIVED,
        "arrived_at": 1.7e9,
        "deadline": ARRIVED + 600.0,
    }
    return Call(**{**values, **more})
