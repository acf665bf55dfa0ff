"""Frames of an engine, however they are split, become frames for a caller."""

from itertools import pairwise

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import EngineBusy, EngineFailed, StreamBroken
from gateway.wire.dialect import EngineSaidNo
from gateway.wire.mend import stream_edit
from gateway.wire.sse import DONE, MAX_FRAME_BYTES, Frames, OpenAIStream, VerbatimStream, encode

ROLE: dict[str, object] = {"delta": {"reasoning_content": None, "role": "assistant", "content": ""}}


def chunk(**choice: object) -> dict[str, object]:
    """One chunk as SGLang words it."""
    base = {"index": 0, "logprobs": None, "finish_reason": None, "matched_stop": None}
    return {
        "id": "a1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "m",
        "choices": [{**base, **choice}],
    }


USAGE = {
    "id": "a1",
    "object": "chat.completion.chunk",
    "created": 1,
    "model": "m",
    "choices": [],
    "usage": {
        "prompt_tokens": 7,
        "completion_tokens": 3,
        "total_tokens": 10,
        "prompt_tokens_details": {"cached_tokens": 4},
        "reasoning_tokens": 0,
    },
}


def stream(*texts: str, finish: str = "stop", usage: bool = True) -> bytes:
    """A whole stream of the engine."""
    frames = [encode(chunk(**ROLE))]
    frames += [encode(chunk(delta={"content": text})) for text in texts]
    frames.append(encode(chunk(delta={}, finish_reason=finish)))
    if usage:
        frames.append(encode(USAGE))
    return b"".join(frames) + DONE


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    """Split bytes at these places."""
    edges = [0, *sorted({c % (len(data) + 1) for c in cuts}), len(data)]
    return [data[a:b] for a, b in pairwise(edges) if a != b]


def run(editor: OpenAIStream | VerbatimStream, parts: list[bytes]) -> bytes:
    """Feed all parts."""
    return b"".join(editor.feed(part) for part in parts)


def documents(data: bytes) -> list[dict[str, object]]:
    """The JSON of all frames but the end."""
    return [orjson.loads(f[6:]) for f in data.split(b"\n\n") if f and f != b"data: [DONE]"]


SPLITS = st.lists(st.integers(min_value=0, max_value=100_000), max_size=40)
TEXTS = st.lists(
    st.one_of(
        st.text(max_size=20),
        st.sampled_from(['data: {"error"', '"usage":{', "[DONE]", "\n\ndata: ", '"choices":[]']),
    ),
    max_size=8,
)


@given(texts=TEXTS, cuts=SPLITS)
def test_a_stream_reads_the_same_however_it_is_split(texts: list[str], cuts: list[int]) -> None:
    data = stream(*texts)
    whole = OpenAIStream(wants_usage=False)
    expected = run(whole, [data])
    split = OpenAIStream(wants_usage=False)
    assert run(split, pieces(data, cuts)) == expected
    assert expected == stream(*texts, usage=False)
    assert (split.usage, split.finish_reasons, split.ended) == (whole.usage, ("stop",), True)
    assert split.usage is not None
    assert split.usage.cached_tokens == 4


@given(texts=TEXTS, cuts=SPLITS)
def test_frames_lose_and_add_nothing(texts: list[str], cuts: list[int]) -> None:
    data = stream(*texts)
    frames = Frames()
    blocks = [frames.feed(part) for part in pieces(data, cuts)]
    assert b"".join(blocks) == data
    assert all(block.endswith(b"\n\n") for block in blocks if block)


@given(cuts=SPLITS)
def test_a_caller_who_asks_for_usage_gets_null_on_all_frames_but_the_last(cuts: list[int]) -> None:
    told = run(OpenAIStream(wants_usage=True), pieces(stream("a", "b"), cuts))
    *earlier, last = documents(told)
    assert [d["usage"] for d in earlier] == [None] * 4
    assert last["usage"] == USAGE["usage"]
    assert last["choices"] == []
    assert told.endswith(DONE)


@given(cuts=SPLITS)
def test_the_served_tier_is_on_every_frame(cuts: list[int]) -> None:
    told = run(OpenAIStream(wants_usage=False, tier="priority"), pieces(stream("a", "b"), cuts))
    assert [d["service_tier"] for d in documents(told)] == ["priority"] * 4


def test_a_greeting_alone_does_not_start_a_stream() -> None:
    editor = OpenAIStream(wants_usage=False)
    greeting = editor.feed(encode(chunk(**ROLE)))
    assert greeting
    assert not editor.started
    editor.feed(encode(chunk(delta={"content": "x"})))
    assert editor.started


def test_a_full_queue_told_inside_the_stream_is_busy() -> None:
    said = {"error": {"object": "error", "message": "The request queue is full.", "code": 503}}
    with pytest.raises(EngineSaidNo) as caught:
        OpenAIStream(wants_usage=False).feed(b"data: " + orjson.dumps(said) + b"\n\n" + DONE)
    assert isinstance(caught.value.error, EngineBusy)


def test_an_abort_never_reaches_a_caller() -> None:
    editor = OpenAIStream(wants_usage=False)
    with pytest.raises(EngineSaidNo) as caught:
        run(editor, [stream("a", finish="abort")])
    assert isinstance(caught.value.error, EngineBusy)


def test_a_broken_stream_ends_with_an_error_that_clients_know() -> None:
    told = OpenAIStream(wants_usage=False).failure(StreamBroken("It broke."))
    error = documents(told)[0]["error"]
    assert error == {"message": "It broke.", "type": "server_error", "param": None, "code": "stream_broken"}  # fmt: skip  # noqa: E501


def test_null_keys_are_dropped_from_tool_call_deltas() -> None:
    first = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "f", "arguments": ""}}  # fmt: skip  # noqa: E501
    later = {"index": 0, "id": None, "type": "function", "function": {"name": None, "arguments": "{}"}}  # fmt: skip  # noqa: E501
    data = b"".join(
        encode(chunk(delta={"role": None, "content": None, "tool_calls": [c]}))
        for c in (first, later)
    )
    editor = OpenAIStream(wants_usage=False, edit=stream_edit(tools=True, model=None))
    one, two = documents(editor.feed(data))
    assert one["choices"][0]["delta"]["tool_calls"] == [first]  # type: ignore[index]
    assert two["choices"][0]["delta"]["tool_calls"] == [  # type: ignore[index]
        {"index": 0, "type": "function", "function": {"arguments": "{}"}}
    ]


def test_a_frame_without_end_is_given_up() -> None:
    frames = Frames()
    frames.feed(b"x" * MAX_FRAME_BYTES)
    with pytest.raises(EngineSaidNo) as caught:
        frames.feed(b"x")
    assert isinstance(caught.value.error, EngineFailed)


def test_a_tool_named_like_the_end_does_not_end_a_stream() -> None:
    editor = VerbatimStream()
    editor.feed(
        b'event: content_block_start\ndata: {"type":"content_block_start","index":0,'
        b'"content_block":{"type":"tool_use","id":"t","name":"message_stop","input":{}}}\n\n'
    )
    assert not editor.ended


@given(cuts=SPLITS)
def test_another_apis_stream_goes_on_untouched(cuts: list[int]) -> None:
    data = (
        b'event: message_start\ndata: {"type":"message_start","message":{"usage":'
        b'{"input_tokens":5,"output_tokens":0}}}\n\n'
        b'event: message_delta\ndata: {"type":"message_delta","usage":{"output_tokens":9}}\n\n'
        b'event: message_stop\ndata: {"type":"message_stop"}\n\n'
    )
    editor = VerbatimStream()
    assert run(editor, pieces(data, cuts)) == data
    assert editor.ended
    assert editor.usage is not None
    assert editor.usage.completion_tokens == 9


@pytest.mark.parametrize("tools", [False, True])
def test_reasoning_tokens_are_told_where_openai_has_them(tools: bool) -> None:
    usage = {"completion_tokens": 9, "reasoning_tokens": 3, "completion_tokens_details": None}
    sent = [encode(chunk(**ROLE)), encode(chunk(delta={"content": "a"}))]
    sent += [encode(chunk(delta={}, finish_reason="stop")), encode({**USAGE, "usage": usage}), DONE]
    editor = OpenAIStream(wants_usage=True, edit=stream_edit(tools=tools, model=None))
    last = documents(run(editor, sent))[-1]
    assert last["usage"] == {**usage, "completion_tokens_details": {"reasoning_tokens": 3}}


@given(texts=TEXTS, cuts=SPLITS, end=st.sampled_from([b"\r\n", b"\r"]), tools=st.booleans())
def test_lines_may_end_in_any_way_that_sse_allows(
    texts: list[str], cuts: list[int], end: bytes, tools: bool
) -> None:
    editor = OpenAIStream(wants_usage=False, edit=stream_edit(tools=tools, model=None))
    told = run(editor, pieces(stream(*texts).replace(b"\n", end), cuts))
    assert told == stream(*texts, usage=False)
    assert editor.ended


@given(cuts=SPLITS)
def test_frames_of_another_form_are_told_in_the_usual_one(cuts: list[int]) -> None:
    plain = chunk(delta={"content": "a"})
    halves = orjson.dumps(plain).replace(b",", b"\ndata: ,", 1)
    frames = [b"data:" + orjson.dumps(plain), b"event: x\ndata: " + halves, b": still here"]
    data = stream("b")[: -len(DONE)] + b"".join(each + b"\n\n" for each in frames) + DONE
    told = run(OpenAIStream(wants_usage=True), pieces(data, cuts))
    assert told.count(b": still here\n\n") == 1
    *_, one, two = documents(told.replace(b": still here\n\n", b""))
    assert one == two == {**plain, "usage": None}


RUBBISH = [
    b"nothing like JSON",
    b'{"choices": [',
    b'"text"',
    b"[]",
    b'{"choices": [{"index": 0, "delta": {"content": "\xff"}}]}',
    b'{"choices": {}}',
    b'{"choices": [null]}',
    b'{"choices": [{"delta": "text"}]}',
]


@pytest.mark.parametrize("rubbish", RUBBISH)
@pytest.mark.parametrize("started", [False, True])
@pytest.mark.parametrize("tools", [False, True])
def test_what_cannot_be_read_never_reaches_a_caller(
    rubbish: bytes, started: bool, tools: bool
) -> None:
    editor = OpenAIStream(wants_usage=False, edit=stream_edit(tools=tools, model=None))
    if started:
        run(editor, [encode(chunk(**ROLE)), *[encode(chunk(delta={"content": "a"}))] * 3])
    with pytest.raises(EngineSaidNo) as caught:
        editor.feed(b"data: " + rubbish + b"\n\n")
    assert isinstance(caught.value.error, EngineFailed)
