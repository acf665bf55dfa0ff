import itertools
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.call import Usage
from gateway.errors import (
    ContextLengthExceeded,
    EngineBusy,
    EngineFailed,
    GatewayError,
    QueueFull,
    StreamBroken,
)
from gateway.wire.dialect import EngineSaidNo
from gateway.wire.responses.dialect import ResponsesDialect
from gateway.wire.responses.document import Document
from tests.gateway.wire.responses_cases import (
    DONE,
    GREETING,
    NAMESPACE,
    PATCH,
    USAGE,
    WEATHER,
    chunk,
    document,
    editor,
    events,
    ids,
    run,
    tool_chunk,
)

TEXT = [
    GREETING,
    chunk({"content": "Hel"}),
    chunk({"content": "lo"}),
    chunk(finish="stop"),
    USAGE,
    DONE,
]
EVERYTHING = [
    GREETING,
    chunk({"reasoning_content": "Hm"}),
    chunk({"reasoning_content": "m."}),
    chunk({"content": "I look"}),
    chunk({"content": "."}),
    tool_chunk(0, "", call_id="call_a", name="get_weather"),
    tool_chunk(0, '{"location": '),
    tool_chunk(0, '"Paris"}'),
    tool_chunk(1, "", call_id="call_b", name="apply_patch"),
    tool_chunk(1, '{"input": "*** Begin'),
    tool_chunk(1, ' Patch"}'),
    chunk(finish="tool_calls"),
    USAGE,
    DONE,
]
TOOLS: dict[str, Any] = {"tools": [WEATHER, PATCH]}


def kinds(found: list[dict[str, Any]]) -> list[str]:
    return [event["type"].removeprefix("response.") for event in found]


async def test_a_text_is_told_in_order() -> None:
    found = await run(TEXT)
    assert kinds(found) == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ]
    assert [event["sequence_number"] for event in found] == [*range(len(found))]
    assert found[4] == {
        "type": "response.output_text.delta",
        "item_id": "msg_1",
        "output_index": 0,
        "content_index": 0,
        "delta": "Hel",
        "logprobs": [],
        "sequence_number": 4,
    }
    assert found[0]["response"]["status"] == "in_progress"
    whole = found[-1]["response"]
    assert whole["output"] == [
        {
            "type": "message",
            "id": "msg_1",
            "status": "completed",
            "role": "assistant",
            "content": [
                {"type": "output_text", "text": "Hello", "annotations": [], "logprobs": []}
            ],
        }
    ]
    assert (whole["status"], whole["created_at"], whole["completed_at"]) == (
        "completed",
        1000,
        1002,
    )
    assert whole["usage"] == {
        "input_tokens": 21,
        "input_tokens_details": {"cached_tokens": 5, "cache_write_tokens": 0},
        "output_tokens": 16,
        "output_tokens_details": {"reasoning_tokens": 3},
        "total_tokens": 37,
    }


async def test_reasoning_text_and_calls_are_items_of_their_own() -> None:
    found = await run(EVERYTHING, **TOOLS)
    assert [item["type"] for item in found[-1]["response"]["output"]] == [
        "reasoning",
        "message",
        "function_call",
        "custom_tool_call",
    ]
    thought, _, call, custom = found[-1]["response"]["output"]
    assert thought["content"] == [{"type": "reasoning_text", "text": "Hmm."}]
    assert thought["summary"] == []
    assert (call["call_id"], call["arguments"]) == ("call_a", '{"location": "Paris"}')
    assert call["status"] == "completed"
    assert (custom["call_id"], custom["input"]) == ("call_b", "*** Begin Patch")
    told = kinds(found)
    for name in (
        "reasoning_text.delta",
        "reasoning_text.done",
        "function_call_arguments.delta",
        "function_call_arguments.done",
        "custom_tool_call_input.delta",
        "custom_tool_call_input.done",
    ):
        assert name in told
    assert told.count("output_item.added") == told.count("output_item.done") == 4
    assert told.index("reasoning_text.done") < told.index("output_text.delta")


async def test_deltas_add_up_to_what_done_says() -> None:
    found = await run(EVERYTHING, **TOOLS)
    grown: dict[tuple[str, str], str] = {}
    for event in found:
        kind, _, what = event["type"].rpartition(".")
        if what == "delta":
            key = (event["item_id"], kind)
            grown[key] = grown.get(key, "") + event["delta"]
        elif (event.get("item_id"), kind) in grown and what == "done":
            said = event.get("text") or event.get("arguments") or event.get("input")
            assert grown.pop((event["item_id"], kind)) == said
    assert not grown


def test_nothing_is_told_before_the_model_has_begun() -> None:
    reader = editor()
    seen = [(reader.feed(frame), reader.started) for frame in (GREETING, chunk({"content": "x"}))]
    assert seen[0] == (b"", False)
    assert events(seen[1][0])[0]["type"] == "response.created"
    assert seen[1][1]
    assert not reader.ended


@pytest.mark.parametrize(
    ("finish", "status", "reason"),
    [
        ("length", "incomplete", "max_output_tokens"),
        ("content_filter", "incomplete", "content_filter"),
        ("stop", "completed", None),
        ("tool_calls", "completed", None),
    ],
)
async def test_the_finish_reason_becomes_a_status(
    finish: str, status: str, reason: str | None
) -> None:
    found = await run([GREETING, chunk({"content": "x"}), chunk(finish=finish), USAGE, DONE])
    last = found[-1]
    assert last["type"] == f"response.{status}"
    assert last["response"]["status"] == status
    assert last["response"]["incomplete_details"] == (reason and {"reason": reason})
    assert (last["response"]["completed_at"] is None) == (status == "incomplete")
    assert last["response"]["output"][-1]["status"] == status


async def test_an_answer_of_nothing_is_an_empty_message() -> None:
    found = await run([GREETING, chunk(finish="stop"), USAGE, DONE])
    assert found[-1]["response"]["output"][0]["content"][0]["text"] == ""
    assert "output_item.done" in kinds(found)


@pytest.mark.parametrize(
    "written", ["12264", "null", "Infinity", '{"a": Infinity}', '{"lo', "", "[]"]
)
async def test_arguments_are_always_an_object(written: str) -> None:
    frames = [
        GREETING,
        tool_chunk(0, "", call_id="c", name="get_weather"),
        *(tool_chunk(0, letter) for letter in written),
        chunk(finish="tool_calls"),
        DONE,
    ]
    found = await run(frames, **TOOLS)
    assert found[-1]["response"]["output"][0]["arguments"] == "{}"
    assert [e["arguments"] for e in found if e["type"].endswith("arguments.done")] == ["{}"]


async def test_a_call_of_a_namespaces_tool_names_both() -> None:
    frames = [
        GREETING,
        tool_chunk(0, "", call_id="call_a", name="crm__get_weather"),
        tool_chunk(0, '{"location": "Paris"}'),
        tool_chunk(1, "", call_id="call_b", name="crm__apply_patch"),
        tool_chunk(1, '{"input": "*"}'),
        chunk(finish="tool_calls"),
        DONE,
    ]
    found = await run(frames, tools=[NAMESPACE])
    added = [each["item"] for each in found if each["type"] == "response.output_item.added"]
    for items in (added, found[-1]["response"]["output"]):
        assert [(i["type"], i["namespace"], i["name"]) for i in items] == [
            ("function_call", "crm", "get_weather"),
            ("custom_tool_call", "crm", "apply_patch"),
        ]


async def test_a_custom_tool_without_its_field_gets_all_that_was_written() -> None:
    frames = [GREETING, tool_chunk(0, "ls -l", call_id="c", name="apply_patch"),
              chunk(finish="tool_calls"), DONE]  # fmt: skip
    assert (await run(frames, **TOOLS))[-1]["response"]["output"][0]["input"] == "ls -l"


async def test_calls_that_are_all_numbered_zero_stay_apart() -> None:
    frames = [
        GREETING,
        tool_chunk(0, '{"location": "A"}', call_id="c1", name="get_weather"),
        tool_chunk(0, '{"location": "B"}', call_id="c2", name="get_weather"),
        chunk(finish="tool_calls"),
        DONE,
    ]
    calls = (await run(frames, **TOOLS))[-1]["response"]["output"]
    assert [(call["call_id"], call["arguments"]) for call in calls] == [
        ("c1", '{"location": "A"}'),
        ("c2", '{"location": "B"}'),
    ]


async def test_calls_may_grow_side_by_side() -> None:
    frames = [
        GREETING,
        tool_chunk(0, "{", call_id="c1", name="get_weather"),
        tool_chunk(1, "{", call_id="c2", name="get_weather"),
        tool_chunk(0, '"a": 1}'),
        tool_chunk(1, '"b": 2}'),
        chunk(finish="tool_calls"),
        DONE,
    ]
    calls = (await run(frames, **TOOLS))[-1]["response"]["output"]
    assert [call["arguments"] for call in calls] == ['{"a": 1}', '{"b": 2}']


async def test_logprobs_are_told_and_kept() -> None:
    top = {"token": "H", "bytes": [72], "logprob": -0.5}
    found = await run(
        [
            GREETING,
            chunk({"content": "H"}, logprobs={"content": [{**top, "top_logprobs": [top]}]}),
            chunk(finish="stop"),
            DONE,
        ],
        include=["message.output_text.logprobs"],
        top_logprobs=1,
    )
    wanted = [{**top, "top_logprobs": [top]}]
    assert [e["logprobs"] for e in found if e["type"].endswith("output_text.delta")] == [wanted]
    assert found[-1]["response"]["output"][0]["content"][0]["logprobs"] == wanted


async def test_the_end_is_told_after_it_was_kept() -> None:
    kept: list[Document] = []
    reader = editor(kept)
    seen = b"".join(reader.feed(frame) for frame in TEXT)
    assert kinds(events(seen))[-1] == "output_text.delta"
    assert not kept
    last = events(await reader.close())[-1]
    assert kept == [last["response"]]
    assert reader.usage == Usage(21, 16, cached_tokens=5, reasoning_tokens=3)
    assert reader.finish_reasons == ("stop",)


async def test_what_could_not_be_kept_says_so() -> None:
    reader = editor(keeps=False)
    for frame in TEXT:
        reader.feed(frame)
    assert events(await reader.close())[-1]["response"]["store"] is False


async def test_what_the_caller_wants_not_stored_is_not_kept() -> None:
    kept: list[Document] = []
    reader = editor(kept, store=False)
    for frame in TEXT:
        reader.feed(frame)
    await reader.close()
    assert not kept


QUEUE_FULL = (
    b'data: {"error": {"object": "error", "message": "The request queue is full.", '
    b'"type": "SERVICE_UNAVAILABLE", "param": null, "code": 503}}\n\n'
)


def test_a_full_queue_inside_a_stream_is_a_refusal() -> None:
    for before in ([], [GREETING]):
        reader = editor()
        for frame in before:
            reader.feed(frame)
        with pytest.raises(EngineSaidNo) as caught:
            reader.feed(QUEUE_FULL)
        assert isinstance(caught.value.error, EngineBusy)
        assert not reader.started


def test_an_abort_never_reaches_the_caller() -> None:
    reader = editor()
    reader.feed(GREETING)
    with pytest.raises(EngineSaidNo) as caught:
        reader.feed(chunk({}, finish="abort"))
    assert isinstance(caught.value.error, EngineBusy)


@pytest.mark.parametrize(
    "frame", [b'data: {"choices": [\xff]}\n\n', b"data: banana\n\n", b"data: []\n\n"]
)
def test_a_frame_that_cannot_be_read_is_a_failure(frame: bytes) -> None:
    reader = editor()
    reader.feed(GREETING)
    with pytest.raises(EngineSaidNo) as caught:
        reader.feed(frame)
    assert isinstance(caught.value.error, EngineFailed)


def test_an_end_without_a_reason_is_a_failure() -> None:
    reader = editor()
    with pytest.raises(EngineSaidNo) as caught:
        reader.feed(GREETING + DONE)
    assert isinstance(caught.value.error, EngineFailed)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (StreamBroken("It broke."), "server_error"),
        (QueueFull(3.0), "rate_limit_exceeded"),
        (ContextLengthExceeded("Too long."), "context_length_exceeded"),
        (EngineBusy("Busy."), "server_is_overloaded"),
    ],
)
def test_a_break_is_told_as_error_and_failed(error: GatewayError, code: str) -> None:
    reader = editor()
    before = events(reader.feed(b"".join(TEXT[:3])))
    last = reader.failure(error)
    assert last.endswith(b"\n\n" + DONE)
    told, failed = events(last)
    assert failed["type"] == "response.failed"
    assert failed["sequence_number"] == len(before) + 1
    assert failed["response"]["status"] == "failed"
    assert failed["response"]["error"] == {"code": code, "message": error.message}
    assert failed["response"]["output"][0]["status"] == "incomplete"
    said = {"code": error.code, "message": error.message, "param": None}
    assert told == {
        "type": "error",
        **said,
        "error": {"type": error.type, **said},
        "sequence_number": len(before),
    }


@given(st.lists(st.integers(0, sum(map(len, EVERYTHING))), max_size=12))
def test_where_frames_are_split_makes_no_difference(cuts: list[int]) -> None:
    whole = b"".join(EVERYTHING)
    once = editor(**TOOLS)
    split = editor(**TOOLS)
    edges = [0, *sorted(cuts), len(whole)]
    pieces = [whole[a:b] for a, b in itertools.pairwise(edges)]
    assert b"".join(map(split.feed, pieces)) == once.feed(whole)
    assert split.ended


def test_frames_split_at_every_byte_say_the_same() -> None:
    whole = b"".join(EVERYTHING)
    once, split = editor(**TOOLS), editor(**TOOLS)
    assert b"".join(split.feed(whole[n : n + 1]) for n in range(len(whole))) == once.feed(whole)


def dialect(kept: list[Document], **fields: Any) -> ResponsesDialect:
    async def keep(whole: Document) -> bool:
        kept.append(whole)
        return True

    custom = frozenset({"apply_patch"})
    return ResponsesDialect(
        document(**fields), custom=custom, keep=keep, now=lambda: 1_002.0, ids=ids()
    )


MESSAGE = {
    "role": "assistant",
    "reasoning_content": "Hmm.",
    "content": "I look.",
    "tool_calls": [
        {"id": "call_a", "index": 0, "type": "function",
         "function": {"name": "get_weather", "arguments": '{"location": "Paris"}'}},
        {"id": "call_b", "index": 1, "type": "function",
         "function": {"name": "apply_patch", "arguments": '{"input": "*** Begin Patch"}'}},
    ],
}  # fmt: skip


def completion(message: dict[str, Any], finish: str) -> bytes:
    usage = orjson.loads(USAGE.removeprefix(b"data: "))["usage"]
    choices = [{"index": 0, "message": message, "logprobs": None, "finish_reason": finish}]
    return orjson.dumps(
        {"id": "a", "object": "chat.completion", "choices": choices, "usage": usage}
    )


async def test_a_document_says_what_the_stream_says() -> None:
    kept: list[Document] = []
    body, usage, reasons = await dialect(kept, **TOOLS).document(completion(MESSAGE, "tool_calls"))
    frames = [*EVERYTHING[:3], chunk({"content": "I look."}), *EVERYTHING[5:]]
    found = await run(frames, **TOOLS)
    assert orjson.loads(body) == found[-1]["response"] == kept[0]
    assert usage == Usage(21, 16, cached_tokens=5, reasoning_tokens=3)
    assert reasons == ("tool_calls",)


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{}", b'{"choices": []}', b'{"choices": [{}]}', b"5"]
)
async def test_an_unreadable_document_is_the_engines_failure(body: bytes) -> None:
    with pytest.raises(EngineSaidNo) as caught:
        await dialect([]).document(body)
    assert isinstance(caught.value.error, EngineFailed)


async def test_an_aborted_document_is_a_refusal() -> None:
    with pytest.raises(EngineSaidNo) as caught:
        await dialect([]).document(completion({"role": "assistant", "content": ""}, "abort"))
    assert isinstance(caught.value.error, EngineBusy)


REQUIRED = """
    id object created_at completed_at status incomplete_details model previous_response_id
    instructions output error tools tool_choice truncation parallel_tool_calls text top_p
    presence_penalty frequency_penalty top_logprobs temperature reasoning user usage
    max_output_tokens max_tool_calls store background service_tier metadata safety_identifier
    prompt_cache_key
"""


async def test_every_field_of_the_public_schema_is_there() -> None:
    body, _, _ = await dialect([]).document(
        completion({"role": "assistant", "content": "x"}, "stop")
    )
    whole = orjson.loads(body)
    assert not [name for name in REQUIRED.split() if name not in whole]
    for name in ("temperature", "top_p", "presence_penalty", "frequency_penalty", "top_logprobs"):
        assert isinstance(whole[name], int | float)
    assert whole["tool_choice"] == "auto"
    assert whole["truncation"] == "disabled"
    assert whole["service_tier"] == "default"
    assert whole["metadata"] == {}
