"""Streams of messages go on as they are, and errors are told in Anthropic's words."""

import orjson
import pytest

from gateway.errors import EngineBusy, EngineFailed, GatewayError, InvalidRequest, ModelNotFound
from gateway.wire.anthropic import AnthropicStream, anthropic_refusal, with_strict_tools
from gateway.wire.body import Body
from gateway.wire.dialect import EngineSaidNo


def event(kind: str, **fields: object) -> bytes:
    """One event as SGLang 0.5.23 writes it."""
    data = orjson.dumps({"type": kind, **fields})
    return b"event: " + kind.encode() + b"\ndata: " + data + b"\n\n"


GREETING = event("message_start", message={"role": "assistant", "usage": {"input_tokens": 7}})
BLOCK = event("content_block_start", index=0, content_block={"type": "text", "text": ""})
DELTA = event("content_block_delta", index=0, delta={"type": "text_delta", "text": "error"})
END = event("message_delta", delta={"stop_reason": "end_turn"}, usage={"output_tokens": 3})
STOP = event("message_stop")


def error(kind: str, message: str = "No.") -> bytes:
    """The event by which a stream says no."""
    return event("error", error={"type": kind, "message": message})


def test_a_stream_starts_after_its_greeting_and_passes_whole() -> None:
    editor = AnthropicStream()
    assert editor.feed(GREETING + event("ping")) == GREETING + event("ping")
    has_started = editor.started
    rest = BLOCK + DELTA + END + STOP
    out = b"".join(editor.feed(rest[at : at + 7]) for at in range(0, len(rest), 7))
    assert out == rest
    assert (has_started, editor.started, editor.ended) == (False, True, True)
    assert editor.usage is not None
    assert editor.usage.completion_tokens == 3


@pytest.mark.parametrize(
    ("kind", "message", "expected"),
    [
        ("invalid_request_error", "max_tokens must be positive", InvalidRequest),
        ("overloaded_error", "The request queue is full.", EngineBusy),
        ("api_error", "Internal server error", EngineFailed),
    ],
)
def test_an_error_after_the_greeting_is_a_refusal(
    kind: str, message: str, expected: type[GatewayError]
) -> None:
    editor = AnthropicStream()
    editor.feed(GREETING)
    with pytest.raises(EngineSaidNo) as told:
        editor.feed(error(kind, message) + STOP)
    assert isinstance(told.value.error, expected)
    assert not editor.started


def test_an_error_in_the_middle_is_no_good_end() -> None:
    editor = AnthropicStream()
    editor.feed(GREETING + BLOCK + DELTA)
    with pytest.raises(EngineSaidNo):
        editor.feed(error("api_error") + STOP)
    assert not editor.ended
    assert editor.failure(EngineFailed("The engine failed.")).startswith(b"event: error\n")


def test_anthropics_envelope_names_the_field_in_its_text() -> None:
    body, _ = anthropic_refusal(InvalidRequest("Field required", param="max_tokens"))
    assert orjson.loads(body)["error"]["message"] == "max_tokens: Field required"


def test_a_field_that_the_text_names_is_not_told_twice() -> None:
    body, _ = anthropic_refusal(ModelNotFound("m"))
    assert orjson.loads(body)["error"]["message"].startswith("The model 'm'")


def tool(**more: object) -> dict[str, object]:
    return {"name": "f", "input_schema": {"type": "object"}, **more}


@pytest.mark.parametrize(
    ("choice", "given", "heard"),
    [
        ({"type": "any"}, [tool()], [tool(strict=True)]),
        ({"type": "tool", "name": "f"}, [tool()], [tool(strict=True)]),
        ({"type": "any"}, [tool(strict=False)], [tool(strict=False)]),
        ({"type": "any"}, [{"type": "bash_20250124"}, 3], [{"type": "bash_20250124"}, 3]),
        ({"type": "auto"}, [tool()], [tool()]),
        ("any", [tool()], [tool()]),
        ({"type": "any"}, "tools", "tools"),
    ],
)
def test_a_forced_tool_is_strict(choice: object, given: object, heard: object) -> None:
    asked = {"model": "m", "tool_choice": choice, "tools": given, "messages": [1.0]}
    body = with_strict_tools(Body(orjson.dumps(asked), {"cache_salt": "s"}))
    assert orjson.loads(body.encode()) == {**asked, "tools": heard, "cache_salt": "s"}


@pytest.mark.parametrize(
    "raw",
    [
        b'{ "model": "m", "tools": [] }',
        b'{"tool_choice":{"type":"any"},"tools":["\xff"]}',
        b'{"tool_choice":{"type":"any"},"tools":["\\ud83d"]}',
    ],
)
def test_a_body_in_which_there_is_nothing_to_do_stays_as_it_was(raw: bytes) -> None:
    body = Body(raw)
    assert with_strict_tools(body) is body
