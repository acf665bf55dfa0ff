"""Are first token, last token and counts right, wherever the bytes are cut?"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.http1 import MalformedResponse, Whole
from loadtest.records import NEVER
from loadtest.sse import TokenStream

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def frame(page: dict[str, Any] | str) -> bytes:
    text = page if isinstance(page, str) else json.dumps(page)
    return f"data: {text}\n\n".encode()


def delta(reason: str | None = None, **fields: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": fields, "finish_reason": reason}]}


# As SGLang 0.5.23 sends them: a role first, then text, a finish, a usage frame.
EVENTS = [
    frame(delta(role="assistant", content="")),
    b": keep-alive\n\n",
    frame(delta(content='say "data: [DONE]\\n\\n" twice')),
    frame(delta(content="\n\n")),
    frame(delta(content=" and")),
    frame(delta(reason="length")),
    frame({"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 4}}),
    frame("[DONE]"),
]
BODY = b"".join(EVENTS)


def chunked(pieces: Iterable[bytes]) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(p), p) for p in pieces if p) + b"0\r\n\r\n"


def feed(raw: bytes, cuts: Iterable[int] = ()) -> TokenStream:
    """Feed a response cut at the given places, a millisecond between the pieces."""
    stream = TokenStream()
    edges = [0, *sorted(set(cuts)), len(raw)]
    for now, (start, stop) in enumerate(itertools.pairwise(edges)):
        if stop > start:
            stream.feed(raw[start:stop], now * 1_000_000)
    return stream


def told(stream: TokenStream) -> tuple[int, int, int, str, bool, str]:
    return (
        stream.chunks,
        stream.tokens,
        stream.prompt_tokens,
        stream.finished,
        stream.complete,
        stream.error,
    )


RIGHT = (3, 4, 5, "length", True, "")


def test_a_stream_is_read_whole_or_byte_by_byte() -> None:
    raw = HEAD + chunked(EVENTS)
    assert told(feed(raw)) == RIGHT
    assert told(feed(raw, range(1, len(raw)))) == RIGHT


@given(st.sets(st.integers(1, len(BODY) - 1)), st.sets(st.integers(1, 900)))
def test_neither_chunks_nor_reads_need_to_respect_events(framing: set[int], cuts: set[int]) -> None:
    edges = [0, *sorted(framing), len(BODY)]
    pieces = [BODY[a:b] for a, b in itertools.pairwise(edges)]
    raw = HEAD + chunked(pieces)
    assert told(feed(raw, (cut for cut in cuts if cut < len(raw)))) == RIGHT


@given(st.sets(st.integers(1, 600)))
def test_carriage_returns_end_lines_too(cuts: set[int]) -> None:
    raw = HEAD + chunked([BODY.replace(b"\n", b"\r\n")])
    assert told(feed(raw, (cut for cut in cuts if cut < len(raw)))) == RIGHT


def test_the_first_token_is_the_first_text_and_the_last_is_the_end() -> None:
    stream = TokenStream()
    stream.feed(HEAD, 1)
    for now, event in enumerate(EVENTS, 2):
        stream.feed(b"%x\r\n%b\r\n" % (len(event), event), now)
    assert (stream.first_ns, stream.done_ns) == (4, 9)
    assert not stream.complete
    assert stream.feed(b"0\r\n\r\n", 99)
    assert stream.done_ns == 9


@pytest.mark.parametrize(
    "first",
    [
        {"choices": [{"index": 0, "text": "x"}]},
        delta(reasoning_content="x"),
        delta(tool_calls=[{"index": 0, "function": {"name": "f"}}]),
    ],
)
def test_text_reasoning_and_tools_are_tokens(first: dict[str, Any]) -> None:
    stream = feed(HEAD + chunked([frame(first), frame(delta(reason="stop")), frame("[DONE]")]))
    assert stream.first_ns != NEVER
    assert stream.chunks == 1


def test_usage_that_comes_with_every_chunk_is_read_from_the_last() -> None:
    events = [
        frame(delta(content="x") | {"usage": {"prompt_tokens": 2, "completion_tokens": n}})
        for n in range(1, 40)
    ]
    last = frame(delta(reason="stop") | {"usage": {"prompt_tokens": 2, "completion_tokens": 39}})
    stream = feed(HEAD + chunked([*events, last, frame("[DONE]")]))
    assert (stream.chunks, stream.tokens) == (39, 39)


def test_the_end_without_done_counts_when_a_choice_was_finished() -> None:
    events = [frame(delta(content="x")), frame(delta(reason="stop"))]
    assert feed(HEAD + chunked(events)).done_ns != NEVER
    assert feed(HEAD + chunked(events[:1])).done_ns == NEVER


@pytest.mark.parametrize(
    "error",
    [
        {"error": {"message": "The request queue is full.", "code": 503}},
        {"object": "error", "message": "The request queue is full."},
    ],
)
def test_an_error_inside_a_200_is_an_error(error: dict[str, Any]) -> None:
    stream = feed(HEAD + chunked([frame(error), frame("[DONE]")]))
    assert stream.error == "The request queue is full."
    assert stream.first_ns == NEVER


def test_other_statuses_have_their_message_read() -> None:
    body = json.dumps({"error": {"message": "slow down", "code": "queue_full"}}).encode()
    raw = b"HTTP/1.1 429 Too Many\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)
    stream = feed(raw, [20, 60, 70])
    assert (stream.status, stream.error, stream.complete) == (
        429,
        "slow down (queue_full)",
        True,
    )


def test_bodies_end_by_length_by_close_or_at_once() -> None:
    sized = Whole()
    assert sized.feed(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc", 1)
    assert (sized.body, sized.reusable) == (b"abc", True)
    unsized = Whole()
    assert not unsized.feed(b"HTTP/1.0 200 OK\r\n\r\nabc", 1)
    assert unsized.closed(2)
    assert (unsized.body, unsized.reusable) == (b"abc", False)
    empty = Whole()
    assert empty.feed(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n", 1)
    assert empty.status == 204


def test_a_close_in_the_middle_is_no_end() -> None:
    stream = TokenStream()
    stream.feed(HEAD + chunked(EVENTS)[:200], 1)
    assert not stream.closed(2)


def test_trailers_are_skipped() -> None:
    raw = HEAD + chunked(EVENTS)[:-2] + b"x-cost: 1\r\n\r\n"
    assert told(feed(raw, range(1, len(raw)))) == RIGHT


@pytest.mark.parametrize(
    "raw",
    [
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"HTTP/1.1 abc\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",
        HEAD + b"zz\r\n",
        HEAD + b"0" * 5000,
    ],
)
def test_what_is_not_http_is_refused(raw: bytes) -> None:
    with pytest.raises(MalformedResponse):
        Whole().feed(raw, 1)
