"""The simulated replica's answers against those of a real SGLang 0.5.23."""

import base64
import struct
from collections.abc import AsyncIterator
from itertools import pairwise
from typing import Any

import aiohttp
import orjson
import pytest

from backends.simulated.server import serve
from backends.simulated.settings import SimulatedSettings
from tests.backends.simulated.captures import capture, frame_shapes, frames_of, shape

TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer", "minimum": 1}},
            "required": ["city", "days"],
        },
    },
}


@pytest.fixture
async def url() -> AsyncIterator[str]:
    settings = SimulatedSettings(context_tokens=2048, cache_report=False, max_running=16)
    async with serve(settings) as urls:
        yield urls[0]


@pytest.fixture
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


async def _post(client: aiohttp.ClientSession, url: str, body: object) -> Any:
    async with client.post(url, json=body) as response:
        assert response.status == 200, await response.text()
        return orjson.loads(await response.read())


async def _stream(client: aiohttp.ClientSession, url: str, body: object) -> list[Any]:
    async with client.post(url, json=body) as response:
        assert response.status == 200, await response.text()
        assert response.headers["Content-Type"] == "text/event-stream; charset=utf-8"
        return frames_of(await response.text())


def _chat(**more: object) -> dict[str, object]:
    return {"model": "m", "messages": [{"role": "user", "content": "Hello"}], **more}


@pytest.mark.parametrize(
    "name",
    ["chat_nonstream", "chat_n2", "chat_logprobs", "completions_nonstream", "native_generate"],
)
async def test_unary_answers_have_sglangs_shape(
    name: str, url: str, client: aiohttp.ClientSession
) -> None:
    real = capture(name)
    expected = orjson.loads(real.body)
    found = await _post(client, url + real.path, real.request)
    if name == "native_generate":
        expected["meta_info"]["finish_reason"] = found["meta_info"]["finish_reason"]
    else:
        assert found["usage"]["completion_tokens"] == expected["usage"]["completion_tokens"]
    assert shape(found) == shape(expected)


@pytest.mark.parametrize(
    "name", ["chat_stream_usage", "chat_stream_no_usage", "chat_stream_continuous_usage"]
)
async def test_chat_streams_have_sglangs_frames(
    name: str, url: str, client: aiohttp.ClientSession
) -> None:
    real = capture(name)
    found = await _stream(client, url + real.path, real.request)
    assert frame_shapes(found) == frame_shapes(real.frames)


async def test_completion_streams_have_sglangs_frames(
    url: str, client: aiohttp.ClientSession
) -> None:
    real = capture("completions_stream")
    found = await _stream(client, url + real.path, real.request)
    assert frame_shapes(found) == frame_shapes(real.frames)


@pytest.mark.parametrize("name", ["v1_loads", "models", "tokenize"])
async def test_reports_have_sglangs_shape(
    name: str, url: str, client: aiohttp.ClientSession
) -> None:
    await _post(client, url + "/v1/chat/completions", _chat(max_tokens=3))
    real = capture(name)
    async with client.request(real.method, url + real.path, json=real.request) as response:
        assert shape(orjson.loads(await response.read())) == shape(orjson.loads(real.body))


@pytest.mark.parametrize(
    "name",
    [
        "err_404",
        "err_bad_temperature",
        "err_context_overflow_max_tokens",
        "err_empty_messages",
        "err_negative_max_tokens",
    ],
)
async def test_errors_are_sglangs_to_the_byte(
    name: str, url: str, client: aiohttp.ClientSession
) -> None:
    real = capture(name)
    async with client.request(real.method, url + real.path, json=real.request) as response:
        assert (response.status, await response.text()) == (real.status, real.body.strip("\n"))


async def test_a_missing_field_leaks_a_path_as_sglang_does(
    url: str, client: aiohttp.ClientSession
) -> None:
    async with client.post(url + "/v1/chat/completions", json={"model": "m"}) as response:
        body = await response.json()
    assert response.status == 400
    assert list(body) == ["object", "message", "type", "param", "code"]
    assert "http_server.py" in body["message"]
    assert body["message"].startswith("1 validation error:\n  {'type': 'missing'")


@pytest.mark.parametrize(
    ("sent", "status", "said"),
    [
        (b"{", 400, "json_invalid"),
        (b'{"x": %b}' % (b"9" * 5000), 400, "error parsing the body"),
        (b"[]", 500, "Internal Server Error"),
        (b'{"messages": 3}', 400, "list_type"),
        (b'{"messages": [{"role": "x"}]}', 400, "literal_error"),
        (b'{"messages": [{"role": "user"}], "n": "two"}', 400, "int_type"),
        (b'{"messages": [{"role": "user"}], "stream": 1}', 400, "bool_type"),
    ],
)
async def test_bad_bodies_are_refused(
    sent: bytes, status: int, said: str, url: str, client: aiohttp.ClientSession
) -> None:
    async with client.post(
        url + "/v1/chat/completions", data=sent, headers={"Content-Type": "application/json"}
    ) as response:
        assert response.status == status
        assert said in await response.text()


async def test_a_prompt_over_the_context_is_refused(
    url: str, client: aiohttp.ClientSession
) -> None:
    long = {"messages": [{"role": "user", "content": "hello world " * 2000}], "stream": True}
    async with client.post(url + "/v1/chat/completions", json=long) as response:
        body = await response.json()
    assert response.status == 400
    assert "is longer than the model's context length (2048 tokens)." in body["message"]


async def test_a_forced_tool_streams_null_keys_after_the_first_delta(
    url: str, client: aiohttp.ClientSession
) -> None:
    asked = _chat(stream=True, tools=[TOOL], tool_choice="required")
    frames = await _stream(client, url + "/v1/chat/completions", asked)
    calls = [
        f["choices"][0]["delta"]["tool_calls"][0]
        for f in frames[1:-2]
        if f["choices"][0]["delta"].get("tool_calls")
    ]
    assert calls[0]["id"].startswith("call_")
    assert calls[0]["function"] == {"name": "weather", "arguments": ""}
    assert {(c["id"], c["function"]["name"]) for c in calls[1:]} == {(None, None)}
    arguments = "".join(c["function"]["arguments"] for c in calls)
    assert orjson.loads(arguments) == {"city": "ok", "days": 1}
    assert frames[-2]["choices"][0]["finish_reason"] == "tool_calls"


async def test_a_named_tool_is_called_in_a_unary_answer(
    url: str, client: aiohttp.ClientSession
) -> None:
    choice = {"type": "function", "function": {"name": "weather"}}
    asked = _chat(tools=[TOOL], tool_choice=choice)
    answer = await _post(client, url + "/v1/chat/completions", asked)
    message = answer["choices"][0]["message"]
    assert message["tool_calls"][0]["function"]["name"] == "weather"
    assert (message["content"], answer["choices"][0]["finish_reason"]) == ("", "tool_calls")


@pytest.mark.parametrize(
    ("said", "choice", "called"),
    [
        ("What is the weather in Rome?", None, True),
        ("What is the Weather in Rome?", "auto", True),
        ("What is the weather in Rome?", "none", False),
        ("Hello", "auto", False),
    ],
)
async def test_a_tool_is_called_by_who_names_it_and_its_result_is_answered(
    url: str, client: aiohttp.ClientSession, said: str, choice: str | None, called: bool
) -> None:
    tool = {"type": "function", "function": {**TOOL["function"], "name": "getWeather"}}  # type: ignore[dict-item]
    messages: list[object] = [{"role": "user", "content": said}]
    asked = _chat(tools=[tool], tool_choice=choice, max_tokens=20, messages=messages)
    (first,) = (await _post(client, url + "/v1/chat/completions", asked))["choices"]
    assert (first["finish_reason"] == "tool_calls") is called
    if called:
        (call,) = first["message"]["tool_calls"]
        messages += [
            first["message"],
            {"role": "tool", "tool_call_id": call["id"], "content": "20"},
        ]
        (second,) = (await _post(client, url + "/v1/chat/completions", asked))["choices"]
        assert second["finish_reason"] != "tool_calls"
        assert second["message"]["content"]


async def test_a_schema_is_answered_with_an_instance(
    url: str, client: aiohttp.ClientSession
) -> None:
    schema = {
        "type": "object",
        "properties": {"ok": {"type": "boolean"}, "all": {"$ref": "#/$defs/list"}},
        "required": ["ok", "all"],
        "$defs": {"list": {"type": "array", "items": {"enum": ["a", "b"]}, "minItems": 2}},
    }
    form = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}
    answer = await _post(client, url + "/v1/chat/completions", _chat(response_format=form))
    content = orjson.loads(answer["choices"][0]["message"]["content"])
    assert content == {"ok": True, "all": ["a", "a"]}
    assert answer["choices"][0]["finish_reason"] == "stop"


async def test_text_is_the_same_each_time_and_ends_at_a_stop_string(
    url: str, client: aiohttp.ClientSession
) -> None:
    path = url + "/v1/chat/completions"
    plain = await _post(client, path, _chat(max_tokens=30, ignore_eos=True))
    text = plain["choices"][0]["message"]["content"]
    words = text.split()
    assert len(words) == plain["usage"]["completion_tokens"] == 30
    stopped = await _post(client, path, _chat(max_tokens=30, ignore_eos=True, stop=[words[9]]))
    choice = stopped["choices"][0]
    assert choice["message"]["content"] == text[: text.index(words[9])]
    assert (choice["finish_reason"], choice["matched_stop"]) == ("stop", words[9])
    frames = await _stream(
        client, path, _chat(max_tokens=30, ignore_eos=True, stop=words[9], stream=True)
    )
    streamed = "".join(f["choices"][0]["delta"].get("content", "") for f in frames[:-1])
    assert streamed == choice["message"]["content"]


async def test_an_answer_ends_by_itself_about_where_the_models_answers_do(
    url: str, client: aiohttp.ClientSession
) -> None:
    asked = _chat(max_completion_tokens=2000)
    answer = await _post(client, url + "/v1/chat/completions", asked)
    choice = answer["choices"][0]
    assert (choice["finish_reason"], choice["matched_stop"]) == ("stop", 2)
    # the end of text counts and shows nothing
    assert len(choice["message"]["content"].split()) == answer["usage"]["completion_tokens"] - 1


async def test_chunks_hold_as_many_tokens_as_the_interval(client: aiohttp.ClientSession) -> None:
    async with serve(SimulatedSettings(stream_interval=8)) as (url,):
        asked = _chat(max_tokens=20, ignore_eos=True, stream=True)
        frames = await _stream(client, url + "/v1/chat/completions", asked)
    contents = [f["choices"][0]["delta"].get("content") for f in frames[1:-2]]
    assert [len(c.split()) for c in contents] == [1, 8, 8, 3]


async def test_a_prompt_seen_before_is_reported_as_cached(client: aiohttp.ClientSession) -> None:
    async with serve(SimulatedSettings()) as (url,):
        long = {"messages": [{"role": "user", "content": "word " * 200}], "max_tokens": 2}
        usages = [
            (await _post(client, url + "/v1/chat/completions", long))["usage"] for _ in range(2)
        ]
        salted = {**long, "cache_salt": "other"}
        other = (await _post(client, url + "/v1/chat/completions", salted))["usage"]
        loads = orjson.loads(await (await client.get(url + "/v1/loads?include=core")).read())
    cached = [u["prompt_tokens_details"]["cached_tokens"] for u in (*usages, other)]
    assert cached[0] == cached[2] == 0
    assert usages[1]["prompt_tokens"] - 16 <= cached[1] < usages[1]["prompt_tokens"]
    assert loads["loads"][0]["cache_hit_rate"] > 0
    assert "queues" not in loads["loads"][0]


async def test_the_id_is_the_rid_and_a_live_rid_is_refused(
    url: str, client: aiohttp.ClientSession
) -> None:
    path = url + "/v1/chat/completions"
    asked = _chat(rid="a" * 32, stream=True, max_tokens=2000, ignore_eos=True)
    async with client.post(path, json=asked) as first:
        assert orjson.loads((await first.content.readline())[6:])["id"] == "a" * 32
        async with client.post(path, json=asked) as second:
            body = await second.json()
    assert (second.status, body["message"]) == (400, f"Duplicate request ID detected: {'a' * 32}")


async def test_a_key_guards_all_but_health_and_metrics(client: aiohttp.ClientSession) -> None:
    async with serve(SimulatedSettings(api_key="k")) as (url,):
        async with client.get(url + "/v1/loads") as refused:
            assert (refused.status, await refused.text()) == (401, '{"error":"Unauthorized"}')
        for path in ("/health", "/ready", "/metrics"):
            assert (await client.get(url + path)).status == 200
        bearer = {"Authorization": "Bearer k"}
        assert (await client.get(url + "/v1/models", headers=bearer)).status == 200


async def test_messages_come_as_anthropics_events(url: str, client: aiohttp.ClientSession) -> None:
    asked = {"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": "Hi"}]}
    answer = await _post(client, url + "/v1/messages", asked)
    assert (answer["type"], answer["stop_reason"]) == ("message", "max_tokens")
    counted = await _post(client, url + "/v1/messages/count_tokens", asked)
    assert counted["input_tokens"] == answer["usage"]["input_tokens"]
    async with client.post(url + "/v1/messages", json={**asked, "stream": True}) as response:
        events = (await response.text()).strip().split("\n\n")
    names = [e.split("\n")[0].removeprefix("event: ") for e in events]
    deltas = ["content_block_delta"] * 5
    assert names[:2] + names[-3:] == [
        "message_start",
        "content_block_start",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    assert names[2:-3] == deltas
    tool = {"name": "f", "input_schema": {"type": "object"}}
    forced = {**asked, "max_tokens": 50, "tools": [tool], "tool_choice": {"type": "any"}}
    called = await _post(client, url + "/v1/messages", forced)
    assert (called["stop_reason"], called["content"][0]["type"]) == ("tool_use", "tool_use")
    async with client.post(url + "/v1/messages", json={"model": "m"}) as refused:
        assert (refused.status, (await refused.json())["type"]) == (400, "error")


async def test_vectors_have_length_one_in_both_encodings(
    url: str, client: aiohttp.ClientSession
) -> None:
    path = url + "/v1/embeddings"
    plain = await _post(client, path, {"model": "m", "input": ["a", "b"]})
    one, two = (d["embedding"] for d in plain["data"])
    assert one != two
    assert sum(v * v for v in one) == pytest.approx(1.0)
    packed = await _post(
        client, path, {"model": "m", "input": "a", "dimensions": 8, "encoding_format": "base64"}
    )
    vector = struct.unpack("<8f", base64.b64decode(packed["data"][0]["embedding"]))
    assert sum(v * v for v in vector) == pytest.approx(1.0, abs=1e-5)


async def test_ranks_scores_and_classes(url: str, client: aiohttp.ClientSession) -> None:
    asked = {"query": "red fox", "documents": ["blue", "a red fox", "red"], "top_n": 2}
    ranked = await _post(client, url + "/v1/rerank", asked)
    assert [r["index"] for r in ranked] == [1, 2]
    assert all(a["score"] >= b["score"] for a, b in pairwise(ranked))
    scored = await _post(
        client,
        url + "/v1/score",
        {"query": "q", "items": ["a", "b"], "label_token_ids": [1, 2], "apply_softmax": True},
    )
    assert [sum(row) for row in scored["scores"]] == pytest.approx([1.0, 1.0])
    classes = await _post(client, url + "/v1/classify", {"model": "m", "input": "text"})
    assert classes["data"][0]["num_classes"] == len(classes["data"][0]["probs"]) == 2


async def test_tokens_turn_back_into_their_text(url: str, client: aiohttp.ClientSession) -> None:
    text = "Grüße, World"
    tokens = (await _post(client, url + "/v1/tokenize", {"prompt": text}))["tokens"]
    back = await _post(client, url + "/v1/detokenize", {"tokens": tokens})
    assert back == {"text": text}
    answer = await _post(
        client, url + "/generate", {"input_ids": tokens, "sampling_params": {"max_new_tokens": 4}}
    )
    ids = {"tokens": answer["output_ids"]}
    assert (await _post(client, url + "/v1/detokenize", ids))["text"] == answer["text"]


async def test_native_streams_are_cumulative(url: str, client: aiohttp.ClientSession) -> None:
    asked = {"text": "Hi", "sampling_params": {"max_new_tokens": 3}, "stream": True}
    frames = await _stream(client, url + "/generate", asked)
    texts = [f["text"] for f in frames[:-1]]
    assert all(b.startswith(a) for a, b in pairwise(texts))
    assert frames[-2]["meta_info"]["finish_reason"] == {"type": "length", "length": 3}
