"""What steers an engine is the gateway's to set: whatever a caller sends of it never arrives."""

import asyncio
from typing import Any

import orjson
import pytest

from backends.sglang import PRIVATE_FIELDS
from tests.engines import Seen, document, scripted_engine
from tests.gateway.api.wire import exchange, request
from tests.gateways import MODEL, running_gateway

HEADERS = {
    "x-override-rid": "mine",
    "x-override-priority": "9",
    "X-Override-Conversation-Id": "c",
    "x-data-parallel-rank": "3",
    "x-smg-routing-key": "k",
    "x-custom-labels": "{}",
    "x-sglext-ids": "1",
    "x-forwarded-for": "1.2.3.4",
    "cookie": "a=b",
    "authorization": "Bearer sk-the-callers-own",
    "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
}
FIELDS: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "hi"}]},
    "/v1/completions": {"prompt": "hi"},
    "/v1/embeddings": {"input": "hi"},
    "/v1/messages": {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 1},
    "/v1/score": {"query": "a", "items": ["b"]},
    "/v1/tokenize": {"prompt": "hi"},
}


async def answer(_: Seen, writer: asyncio.StreamWriter) -> None:
    """Answer anything."""
    writer.write(document({"choices": [], "data": [], "usage": None}))


async def sent_on(redis_url: str, path: str, body: bytes) -> Seen:
    """Give what an engine gets of a request."""
    async with (
        scripted_engine(answer) as engine,
        running_gateway(redis_url, {MODEL: [engine.url]}) as gateway,
    ):
        told = await exchange(gateway.port, request(path, body, headers=HEADERS))
        assert told.status == 200, told.body
        (seen,) = engine.calls
        return seen


@pytest.mark.parametrize("escaped", [False, True], ids=["plain", "escaped"])
@pytest.mark.parametrize("path", FIELDS)
async def test_private_fields_and_headers_never_arrive(
    redis_url: str, path: str, escaped: bool
) -> None:
    own = orjson.dumps({"model": MODEL, "custom": {"b": 1, "a": [2]}, **FIELDS[path]})
    parts = []
    for name in sorted(PRIVATE_FIELDS):
        shown = f"\\u{ord(name[0]):04x}{name[1:]}" if escaped else name
        parts.append(f'"{shown}":"sent-by-the-caller"')
    body = own[:-1] + b"," + ",".join(parts).encode() + b"}"
    seen = await sent_on(redis_url, path, body)
    assert b"sent-by-the-caller" not in seen.body
    assert seen.document["custom"] == {"b": 1, "a": [2]}
    assert set(seen.document) & PRIVATE_FIELDS <= {"rid"}
    assert set(seen.headers) <= {"host", "content-length", "content-type", "traceparent"}
    assert (
        seen.headers.get("traceparent", HEADERS["traceparent"])[:36]
        == (HEADERS["traceparent"][:36])
    )


async def test_of_a_field_that_is_named_twice_the_last_counts_for_both_sides(
    redis_url: str,
) -> None:
    # The gateway checks what the engine will read, wherever it stands.
    body = b'{"model":"nobody","max_tokens":5,"messages":[{"role":"user","content":"hi"}],'
    body += b'"model":"%b","max_tokens":3}' % MODEL.encode()
    seen = await sent_on(redis_url, "/v1/chat/completions", body)
    assert seen.document["model"] == MODEL
    assert seen.document["max_tokens"] == 3


async def test_stream_options_of_ours_cannot_be_undone(redis_url: str) -> None:
    body = (
        b'{"model":"%b","messages":[{"role":"user","content":"hi"}],"stream":true,'
        b'"\\u0073tream_options":{"include_usage":false}}' % MODEL.encode()
    )
    seen = await sent_on(redis_url, "/v1/chat/completions", body)
    assert seen.document["stream_options"] == {"include_usage": True}
