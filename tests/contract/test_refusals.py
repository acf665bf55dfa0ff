"""What is refused, by the gateway or by the engine, is refused in the same words."""

import asyncio
import re

import pytest

from tests.contract.site import CONTEXT_TOKENS, MAX_QUEUED, MAX_RUNNING, Site, until_idle
from tests.waiting import eventually

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
MESSAGES = "/v1/messages"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
async def test_a_prompt_over_the_context_is_told_as_such(
    site: Site, path: str, stream: bool
) -> None:
    long = "word " * (CONTEXT_TOKENS * 3)
    asked = {"prompt": long} if path == COMPLETIONS else {"messages": site.chat(long)["messages"]}
    answer = await site.post(path, {"model": site.model, "stream": stream, **asked})
    assert answer.status == 400
    assert answer.error["code"] == "context_length_exceeded"
    assert answer.error["type"] == "invalid_request_error"
    limit = (
        f"This model's maximum context length is {CONTEXT_TOKENS} tokens. However, your messages"
    )
    assert answer.error["message"].startswith(limit)


async def test_an_answer_over_the_context_is_told_as_such(site: Site) -> None:
    answer = await site.post(CHAT, site.chat(max_tokens=CONTEXT_TOKENS + 1))
    assert answer.status == 400
    assert answer.error["code"] == "context_length_exceeded"
    chat = site.chat("word " * 600, max_tokens=CONTEXT_TOKENS - 10)
    both = await site.post(CHAT, chat)
    assert both.status == 400
    assert both.error["code"] == "context_length_exceeded"
    assert re.search(
        r"maximum context length is 2048 tokens\. .* you requested \d+ tokens",
        both.error["message"],
    )
    message = await site.post(MESSAGES, chat)  # Claude Code asks for less again by these words
    assert re.match(
        r"input length and `max_tokens` exceed context limit: \d+ \+ 2038 > 2048",
        message.error["message"],
    )
    message = await site.post(MESSAGES, site.chat("word " * (CONTEXT_TOKENS * 3)))
    assert re.fullmatch(r"prompt is too long: \d+ tokens > 2048 maximum", message.error["message"])


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"temperature": 99}, "temperature"),
        ({"temperature": -1}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"top_p": 1.5}, "top_p"),
        ({"frequency_penalty": 3}, "frequency_penalty"),
        ({"presence_penalty": -3}, "presence_penalty"),
        ({"n": 0}, "n"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"max_tokens": "many"}, "max_tokens"),
        ({"stop": ["a", "b", "c", "d", "e"]}, "stop"),
        ({"logit_bias": {"1": 101}}, "logit_bias[]"),
        ({"messages": []}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": [{"role": "wizard", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": 3}]}, "messages[0].content"),
        ({"response_format": {"type": 1}}, "response_format.type"),
        ({"tools": [{"function": {"name": "f"}}]}, "tools[0].type"),
        ({"tools": [{"type": "custom", "custom": {"name": "f"}}]}, "tools[0].type"),
        ({"tools": [{"type": "function"}]}, "tools[0].function"),
        ({"tool_choice": "sometimes"}, "tool_choice"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"functions": [{"name": "f", "parameters": {}}]}, "functions"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        ({"audio": {"voice": "alloy", "format": "wav"}}, "modalities"),
        ({"top_logprobs": 21}, "top_logprobs"),
        ({"service_tier": "golden"}, "service_tier"),
        ({"metadata": {"a": 1}}, "metadata"),
        ({"modalities": ["audio"]}, "modalities"),
        ({"web_search_options": {}}, "web_search_options"),
        ({"stream": "yes"}, "stream"),
        ({"seed": 0.5}, "seed"),
    ],
)
async def test_a_bad_field_is_named(site: Site, fields: dict[str, object], param: str) -> None:
    answer = await site.post(CHAT, site.chat(**fields))
    assert answer.status == 400, answer.body
    assert answer.error["type"] == "invalid_request_error"
    assert (answer.error["param"] or "").startswith(param), answer.error
    assert "expected null" not in answer.error["message"]


async def test_fields_that_are_null_or_empty_ask_for_nothing(site: Site) -> None:
    none = dict.fromkeys(("audio", "web_search_options", "functions", "tools", "tool_choice"))
    for fields in (none, {"functions": [], "tools": [], "tool_choice": "auto"}):
        answer = await site.post(CHAT, site.chat(**fields))
        assert answer.status == 200, answer.body


@pytest.mark.parametrize("field", ["model", "messages"])
async def test_a_missing_field_is_named(site: Site, field: str) -> None:
    body = site.chat()
    del body[field]
    answer = await site.post(CHAT, body)
    assert answer.status == 400
    assert answer.error["param"] == field
    assert answer.error["code"] == "missing_required_parameter"


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS, "/v1/embeddings", "/v1/responses"])
async def test_the_gateway_checks_the_models_name(site: Site, path: str) -> None:
    asked = {CHAT: site.chat(), COMPLETIONS: {"prompt": "x"}}.get(path, {"input": "x"})
    body = {**asked, "model": "no-such-model"}
    answer = await site.post(path, body)
    assert answer.status == 404
    assert answer.error["code"] == "model_not_found"
    assert answer.error["param"] == "model"


async def test_a_full_queue_is_503_with_retry_after(site: Site) -> None:
    long = site.chat(max_tokens=1500, ignore_eos=True, stream=True)
    busy = []
    for number in range(MAX_RUNNING + MAX_QUEUED):
        # One at a time: the engine refuses by what waits, not by what could run.
        busy.append(asyncio.create_task(site.post(CHAT, long)))
        want = number + 1
        await eventually(lambda want=want: _busy(site, want))  # type: ignore[misc]
    try:
        for stream in (False, True):
            answer = await site.post(CHAT, site.chat(stream=stream))
            assert answer.status == 503
            assert answer.error["code"] == "server_is_overloaded"
            assert 1 <= int(answer.headers["retry-after"]) <= 120
            answer = await site.post(MESSAGES, site.chat(stream=stream))
            assert answer.status == 503
            assert answer.error["type"] == "overloaded_error"
            assert 1 <= int(answer.headers["retry-after"]) <= 120
    finally:
        for task in busy:
            task.cancel()
        await asyncio.gather(*busy, return_exceptions=True)
        await until_idle(site)


async def _busy(site: Site, want: int) -> bool:
    return sum(await site.engine_load()) >= min(want, MAX_RUNNING)


ENDLESS = {"$ref": "#/$defs/a", "$defs": {"a": {"anyOf": [{"$ref": "#"}]}}}
FORM = {"type": "json_schema", "name": "x", "schema": ENDLESS}
FUNCTION = {"name": "f", "parameters": ENDLESS}


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        (CHAT, {"response_format": {"type": "json_schema", "json_schema": FORM}}),
        (CHAT, {"tools": [{"type": "function", "function": FUNCTION}]}),
        ("/v1/responses", {"input": "hi", "text": {"format": FORM}}),
        ("/v1/responses", {"input": "hi", "tools": [{"type": "function", **FUNCTION}]}),
        (MESSAGES, {"tools": [{"name": "f", "input_schema": ENDLESS}]}),
        (MESSAGES, {"output_config": {"format": FORM}}),
    ],
)
async def test_a_schema_that_would_kill_an_engine_is_refused(
    site: Site, path: str, fields: dict[str, object]
) -> None:
    body = {"model": site.model} if path == "/v1/responses" else site.chat()
    answer = await site.post(path, {**body, **fields})
    assert answer.status == 400
    assert "leads back to itself" in answer.error["message"]
    assert (await site.post(CHAT, site.chat())).status == 200
