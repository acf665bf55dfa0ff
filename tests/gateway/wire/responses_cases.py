"""What do engines answer, in SGLang's shapes? Shared by the tests of the Responses API."""

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import orjson

from gateway.wire.responses.document import Document, created
from gateway.wire.responses.request import CreateResponse, parse
from gateway.wire.responses.stream import ResponsesStream
from gateway.wire.responses.tools import toolbox

Kept = list[Document]

WEATHER: dict[str, Any] = {
    "type": "function",
    "name": "get_weather",
    "description": "Tells the weather of a place.",
    "parameters": {
        "type": "object",
        "properties": {"location": {"type": "string"}},
        "required": ["location"],
    },
}
PATCH: dict[str, Any] = {"type": "custom", "name": "apply_patch", "description": "Edits files."}
NAMESPACE: dict[str, Any] = {
    "type": "namespace",
    "name": "crm",
    "description": "Customers.",
    "tools": [WEATHER, PATCH],
}


def ids() -> Callable[[str], str]:
    """Make a source of ids that are the same in every run."""
    numbers: Iterator[int] = itertools.count(1)
    return lambda prefix: f"{prefix}_{next(numbers)}"


def request(**fields: Any) -> CreateResponse:
    """Parse a request with these fields."""
    return parse(orjson.dumps({"model": "tiny", "input": "Hi", **fields}))


def document(**fields: Any) -> Document:
    """Give the response object of a request with these fields, before its answer."""
    asked = request(**fields)
    tools = toolbox(asked.tools, asked.tool_choice)
    return created(asked, tools, response_id="resp_1", tier=None, now=1_000.5)


def chunk(delta: dict[str, Any] | None = None, finish: str | None = None, **more: Any) -> bytes:
    """Give one frame as SGLang 0.5.23 sends it."""
    choices = [
        {
            "index": 0,
            "delta": {"reasoning_content": None, **(delta or {})},
            "logprobs": None,
            "finish_reason": finish,
            "matched_stop": None,
            **more,
        }
    ]
    frame = {"id": "a1", "object": "chat.completion.chunk", "model": "tiny", "choices": choices}
    return b"data: " + orjson.dumps(frame) + b"\n\n"


GREETING = chunk({"role": "assistant", "content": ""})
USAGE = (
    b'data: {"id":"a1","object":"chat.completion.chunk","choices":[],"usage":{"prompt_tokens":21,'
    b'"total_tokens":37,"completion_tokens":16,"prompt_tokens_details":{"cached_tokens":5},'
    b'"reasoning_tokens":3,"completion_tokens_details":null}}\n\n'
)
DONE = b"data: [DONE]\n\n"


def tool_chunk(
    index: int, arguments: str, *, call_id: str | None = None, name: str | None = None
) -> bytes:
    """Give one frame of a tool call; after the first, id and name are null."""
    function = {"name": name, "arguments": arguments}
    call = {"id": call_id, "index": index, "type": "function", "function": function}
    return chunk({"content": None, "tool_calls": [call]})


def editor(kept: Kept | None = None, *, keeps: bool = True, **fields: Any) -> ResponsesStream:
    """Make an editor for the answer to a request with these fields."""
    asked = request(**fields)
    tools = toolbox(asked.tools, asked.tool_choice)

    async def keep(whole: Document) -> bool:
        if kept is not None:
            kept.append(orjson.loads(orjson.dumps(whole)))
        return keeps

    return ResponsesStream(
        document(**fields),
        custom=tools.custom,
        members=tools.members,
        keep=keep,
        now=lambda: 1_002.0,
        ids=ids(),
    )


def events(data: bytes) -> list[dict[str, Any]]:
    """Read events, and check what holds for each: the name is the type, one data line."""
    found = []
    for frame in data.removesuffix(DONE).split(b"\n\n")[:-1]:
        name, body = frame.split(b"\n")
        event = orjson.loads(body.removeprefix(b"data: "))
        assert name == b"event: " + event["type"].encode()
        found.append(event)
    return found


async def run(frames: list[bytes], **fields: Any) -> list[dict[str, Any]]:
    """Give all events of a stream that ends well."""
    reader = editor(**fields)
    out = b"".join(reader.feed(frame) for frame in frames)
    assert reader.ended
    last = await reader.close()
    assert last.endswith(b"\n\n" + DONE)
    return events(out + last)
