"""Chat and text completions: the same answers from a real SGLang and from the simulated replica."""

from typing import Any

import orjson
import pytest

from tests.contract.site import Site

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"

# A tiny model writes spaces for ever, which JSON allows; penalties end that.
TO_THE_POINT = {"temperature": 0, "frequency_penalty": 2, "max_tokens": 400}

WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Tells the weather.",
        "parameters": {
            "type": "object",
            "properties": {"unit": {"type": "string", "enum": ["C", "F"]}},
            "required": ["unit"],
            "additionalProperties": False,
        },
    },
}


async def test_a_chat_is_answered_with_usage(site: Site) -> None:
    answer = await site.post(CHAT, site.chat(ignore_eos=True))
    assert answer.status == 200
    document = answer.document
    assert document["object"] == "chat.completion"
    assert document["model"] == site.model
    assert "metadata" not in document
    (choice,) = document["choices"]
    assert choice["message"]["role"] == "assistant"
    assert isinstance(choice["message"]["content"], str)
    assert choice["message"]["refusal"] is None
    assert choice["finish_reason"] == "length"
    usage = document["usage"]
    assert usage["completion_tokens_details"]["reasoning_tokens"] == 0
    assert usage["completion_tokens"] == 8
    assert usage["prompt_tokens"] > 0
    assert usage["total_tokens"] == usage["prompt_tokens"] + 8


@pytest.mark.parametrize("wants_usage", [True, False])
async def test_a_chat_is_streamed_with_usage_where_asked(site: Site, wants_usage: bool) -> None:
    options = {"stream_options": {"include_usage": True}} if wants_usage else {}
    body = site.chat(stream=True, ignore_eos=True, seed=1, **options)
    answer = await site.post(CHAT, body)
    assert answer.headers["content-type"].startswith("text/event-stream")
    frames = answer.frames
    assert frames[0]["choices"][0]["delta"]["role"] == "assistant"
    assert len({f["id"] for f in frames}) == 1
    assert {f["object"] for f in frames} == {"chat.completion.chunk"}
    assert answer.text()
    finishes = [c["finish_reason"] for f in frames for c in f["choices"] if c["finish_reason"]]
    assert finishes == ["length"]
    told = [f for f in frames if not f["choices"]]
    if wants_usage:
        assert frames[-1] is told[0]
        assert told[0]["usage"]["completion_tokens"] == 8
        assert told[0]["usage"]["completion_tokens_details"]["reasoning_tokens"] == 0
        assert all(f["usage"] is None for f in frames[:-1])
    else:
        assert told == []
        assert not any(f.get("usage") for f in frames)


async def test_a_text_is_continued(site: Site) -> None:
    body = {"model": site.model, "prompt": "Once", "max_tokens": 6, "ignore_eos": True}
    document = (await site.post(COMPLETIONS, body)).document
    assert document["object"] == "text_completion"
    assert document["usage"]["completion_tokens"] == 6
    whole = document["choices"][0]["text"]
    assert isinstance(whole, str)
    streamed = await site.post(COMPLETIONS, {**body, "stream": True, "temperature": 0})
    texts = [c["text"] for f in streamed.frames for c in f["choices"]]
    assert all(isinstance(t, str) for t in texts)
    assert "".join(texts)


async def test_several_prompts_and_choices_keep_their_order(site: Site) -> None:
    body = {"model": site.model, "prompt": ["a", "b"], "n": 1, "max_tokens": 3}
    document = (await site.post(COMPLETIONS, body)).document
    assert [c["index"] for c in document["choices"]] == [0, 1]


async def test_n_choices_are_told_apart(site: Site) -> None:
    body = site.chat(n=3, temperature=1.0, ignore_eos=True)
    document = (await site.post(CHAT, body)).document
    assert [c["index"] for c in document["choices"]] == [0, 1, 2]
    assert document["usage"]["completion_tokens"] == 24
    streamed = await site.post(CHAT, {**body, "stream": True})
    assert {c["index"] for f in streamed.frames for c in f["choices"]} == {0, 1, 2}
    finishes = [
        c["index"] for f in streamed.frames for c in f["choices"] if c["finish_reason"] is not None
    ]
    assert sorted(finishes) == [0, 1, 2]


async def test_a_stop_string_ends_the_answer(site: Site) -> None:
    body = site.chat(temperature=0, seed=5, max_tokens=24, ignore_eos=True)
    whole = (await site.post(CHAT, body)).document["choices"][0]["message"]["content"]
    assert len(whole) > 6
    stop = whole[4:6]
    cut = (await site.post(CHAT, {**body, "stop": [stop]})).document["choices"][0]
    assert cut["finish_reason"] == "stop"
    assert cut["message"]["content"] == whole[: whole.index(stop)]


async def test_logprobs_have_openais_shape(site: Site) -> None:
    body = site.chat(logprobs=True, top_logprobs=2, max_tokens=3, ignore_eos=True)
    document = (await site.post(CHAT, body)).document
    content = document["choices"][0]["logprobs"]["content"]
    assert len(content) == 3
    for token in content:
        assert {"token", "logprob", "bytes", "top_logprobs"} <= set(token)
        assert len(token["top_logprobs"]) == 2
    streamed = await site.post(CHAT, {**body, "stream": True})
    told = [
        c["logprobs"]["content"] for f in streamed.frames for c in f["choices"] if c.get("logprobs")
    ]
    assert sum(map(len, told)) == 3


async def test_an_answer_has_the_schema_that_was_asked_for(site: Site) -> None:
    schema = {
        "type": "object",
        "properties": {"ok": {"type": "boolean"}},
        "required": ["ok"],
        "additionalProperties": False,
    }
    form = {"type": "json_schema", "json_schema": {"name": "s", "schema": schema, "strict": True}}
    document = (await site.post(CHAT, site.chat(response_format=form, **TO_THE_POINT))).document
    found = orjson.loads(document["choices"][0]["message"]["content"])
    assert set(found) == {"ok"}
    assert isinstance(found["ok"], bool)


@pytest.mark.parametrize(
    "choice", ["required", {"type": "function", "function": {"name": "get_weather"}}]
)
async def test_a_forced_tool_is_called_with_arguments_of_its_schema(
    site: Site, choice: object
) -> None:
    # Nothing says `strict`: the gateway asks for it where a tool is forced.
    body = site.chat(tools=[WEATHER], tool_choice=choice, **TO_THE_POINT)
    (found,) = (await site.post(CHAT, body)).document["choices"]
    call = found["message"]["tool_calls"][0]
    assert call["type"] == "function"
    assert call["id"]
    assert call["function"]["name"] == "get_weather"
    assert orjson.loads(call["function"]["arguments"])["unit"] in {"C", "F"}


async def test_streamed_tool_calls_have_no_null_keys(site: Site) -> None:
    body = site.chat(tools=[WEATHER], tool_choice="required", stream=True, **TO_THE_POINT)
    answer = await site.post(CHAT, body)
    deltas = [
        call
        for f in answer.frames
        for c in f["choices"]
        for call in c["delta"].get("tool_calls") or ()
    ]
    assert deltas
    for call in deltas:
        assert None not in call.values()
        assert None not in call["function"].values()
    first = [d for d in deltas if d["index"] == 0]
    assert first[0]["function"]["name"] == "get_weather"
    text = "".join(d["function"].get("arguments") or "" for d in first)
    assert orjson.loads(text)["unit"] in {"C", "F"}


async def test_the_served_tier_is_echoed(site: Site) -> None:
    assert "service_tier" not in (await site.post(CHAT, site.chat())).document
    document = (await site.post(CHAT, site.chat(service_tier="priority"))).document
    assert document["service_tier"] == "priority"
    streamed = await site.post(CHAT, site.chat(service_tier="flex", stream=True))
    assert {f["service_tier"] for f in streamed.frames} == {"flex"}


async def test_what_only_the_engine_knows_passes_through(site: Site) -> None:
    body = site.chat(top_k=3, min_p=0.1, repetition_penalty=1.1, min_tokens=2, unknown_field=[1])
    assert (await site.post(CHAT, body)).status == 200
