import base64
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import InvalidRequest
from gateway.wire.responses.chat import chat_request
from gateway.wire.responses.items import Item, input_items, references
from gateway.wire.responses.request import parse
from gateway.wire.responses.tools import toolbox
from tests.gateway.wire.responses_cases import NAMESPACE, PATCH, WEATHER, ids, request


def chat(*, stream: bool = False, **fields: Any) -> dict[str, Any]:
    asked = request(**fields)
    tools = toolbox(asked.tools, asked.tool_choice)
    return chat_request(asked, items(asked.input), tools, stream=stream)


def items(given: str | list[Item] | None, stored: dict[str, Item] | None = None) -> list[Item]:
    return input_items(given, new_id=ids(), stored=stored or {})


def test_words_of_chat_that_ask_for_nothing_are_no_matter() -> None:
    plain = chat()
    assert chat(n=1, logprobs=False, functions=[], max_tokens=None, messages=None) == plain


def refused(**fields: Any) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        chat(**fields)
    return caught.value


def test_a_string_is_one_user_message() -> None:
    assert chat(input="Hello") == {
        "model": "tiny",
        "messages": [{"role": "user", "content": "Hello"}],
    }


def test_sampling_and_form_reach_the_engine_under_its_own_names() -> None:
    schema = {"type": "object", "properties": {}}
    body = chat(
        stream=True,
        max_output_tokens=9,
        temperature=0,
        top_p=0.5,
        presence_penalty=0.25,
        frequency_penalty=-1,
        top_k=7,
        seed=3,
        ignore_eos=True,
        reasoning={"effort": "low"},
        text={"format": {"type": "json_schema", "name": "n", "schema": schema, "strict": True}},
        include=["message.output_text.logprobs"],
        top_logprobs=2,
    )
    del body["messages"]
    assert body == {
        "model": "tiny",
        "max_completion_tokens": 9,
        "temperature": 0,
        "top_p": 0.5,
        "presence_penalty": 0.25,
        "frequency_penalty": -1,
        "top_k": 7,
        "seed": 3,
        "ignore_eos": True,
        "reasoning_effort": "low",
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "n", "schema": schema, "strict": True},
        },
        "logprobs": True,
        "top_logprobs": 2,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def test_private_fields_and_hints_do_not_reach_the_engine() -> None:
    body = chat(rid="x", priority=9, lora_path="/etc", prompt_cache_key="k", user="u", foo=1)
    assert set(body) == {"model", "messages"}


def test_instructions_and_leading_system_messages_become_one() -> None:
    body = chat(
        instructions="Be short.",
        input=[
            {"role": "developer", "content": "Be kind."},
            {"type": "message", "role": "system", "content": [{"type": "input_text", "text": "A"}]},
            {"role": "user", "content": "Hi"},
            {"role": "system", "content": "Later."},
        ],
    )
    assert body["messages"] == [
        {"role": "system", "content": "Be short.\n\nBe kind.\n\nA"},
        {"role": "user", "content": "Hi"},
        {"role": "system", "content": "Later."},
    ]


def test_a_turn_of_the_model_is_one_message() -> None:
    body = chat(
        input=[
            {"role": "user", "content": "Weather?"},
            {
                "type": "reasoning",
                "id": "rs_9",
                "summary": [],
                "content": [{"type": "reasoning_text", "text": "Look."}],
            },
            {
                "type": "message",
                "role": "assistant",
                "phase": "commentary",
                "content": [
                    {"type": "output_text", "text": "I look", "annotations": []},
                    {"type": "output_text", "text": " it up."},
                ],
            },
            {"type": "function_call", "call_id": "c1", "name": "f", "arguments": '{"a": 1}'},
            {"type": "function_call", "call_id": "c2", "name": "f", "arguments": "12264"},
            {"type": "function_call_output", "call_id": "c1", "output": "sunny"},
            {
                "type": "function_call_output",
                "call_id": "c2",
                "output": [{"type": "input_text", "text": "rain"}],
            },
            {"role": "assistant", "content": "Sun and rain."},
        ]
    )
    assert body["messages"] == [
        {"role": "user", "content": "Weather?"},
        {
            "role": "assistant",
            "content": "I look it up.",
            "reasoning_content": "Look.",
            "phase": "commentary",
            "tool_calls": [
                {
                    "id": "c1",
                    "type": "function",
                    "function": {"name": "f", "arguments": '{"a": 1}'},
                },
                {"id": "c2", "type": "function", "function": {"name": "f", "arguments": "{}"}},
            ],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "sunny"},
        {"role": "tool", "tool_call_id": "c2", "content": "rain"},
        {"role": "assistant", "content": "Sun and rain."},
    ]


def attached(data: bytes, **more: Any) -> list[dict[str, Any]]:
    url = "data:text/plain;base64," + base64.b64encode(data).decode()
    part = {"type": "input_file", "filename": "a.md", "file_data": url, **more}
    return [{"role": "user", "content": [{"type": "input_text", "text": "Sum up."}, part]}]


def test_a_file_of_text_is_told_to_the_model_and_kept_as_it_came() -> None:
    given = attached("Grüße".encode())
    (kept,) = items(given)
    assert kept["content"][1] == given[0]["content"][1]
    for asked in (given, [kept]):  # as a caller sends it, and as it is replayed
        assert chat(input=asked)["messages"][0]["content"] == [
            {"type": "text", "text": "Sum up."},
            {"type": "text", "text": "File a.md:\nGrüße"},
        ]


@pytest.mark.parametrize(
    ("part", "param"),
    [
        (attached(b"%PDF-1.4 hello"), "file_data"),
        (attached(b"\x00\x01"), "file_data"),
        (attached(b"\xff\xfe"), "file_data"),
        (attached(b"", file_data="no base64!"), "file_data"),
        (attached(b"", file_data=None), "file_data"),
        (attached(b"", file_id="file_1"), "file_id"),
        (attached(b"", file_url="http://x/y"), "file_url"),
        (attached(b"", filename=5), "filename"),
    ],
)
def test_a_file_that_is_no_text_is_named(part: list[dict[str, Any]], param: str) -> None:
    error = refused(input=part)
    assert error.param == f"input[0].content[1].{param}"


def test_images_go_on_as_urls() -> None:
    parts = [
        {"type": "input_text", "text": "What is it?"},
        {"type": "input_image", "image_url": "data:image/png;base64,AA=="},
    ]
    assert chat(input=[{"role": "user", "content": parts}])["messages"][0]["content"] == [
        {"type": "text", "text": "What is it?"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA==", "detail": "auto"}},
    ]


def test_references_mean_stored_items() -> None:
    given: list[Item] = [
        {"type": "item_reference", "id": "msg_7"},
        {"id": "msg_8"},
        {"role": "user", "content": "Hi"},
    ]
    assert references(given) == ["msg_7", "msg_8"]
    known = {name: {"type": "message", "id": name} for name in ("msg_7", "msg_8")}
    assert items(given, known)[:2] == [known["msg_7"], known["msg_8"]]
    with pytest.raises(InvalidRequest) as caught:
        items(given)
    assert caught.value.param == "input[0].id"


def test_items_are_complete_once_they_are_read() -> None:
    assert items([{"role": "user", "content": "Hi"}, {"id": "fc_7", **CALL}]) == [
        {
            "type": "message",
            "id": "msg_1",
            "status": "completed",
            "role": "user",
            "content": [{"type": "input_text", "text": "Hi"}],
        },
        {"id": "fc_7", "status": "completed", **CALL},
    ]


CALL = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}


def test_tools_are_nested_and_strict_is_kept() -> None:
    body = chat(tools=[{**WEATHER, "strict": False}], parallel_tool_calls=False)
    function = {k: v for k, v in WEATHER.items() if k != "type"}
    assert body["tools"] == [{"type": "function", "function": {**function, "strict": False}}]
    assert (body["tool_choice"], body["parallel_tool_calls"]) == ("auto", False)


@pytest.mark.parametrize(
    ("choice", "engine"),
    [
        ("required", "required"),
        (
            {"type": "function", "name": "get_weather"},
            {"type": "function", "function": {"name": "get_weather"}},
        ),
        (
            {
                "type": "allowed_tools",
                "mode": "required",
                "tools": [{"type": "function", "name": "get_weather"}],
            },
            "required",
        ),
    ],
)
def test_a_forced_tool_is_strict_where_the_caller_left_it_open(choice: Any, engine: Any) -> None:
    body = chat(tools=[WEATHER], tool_choice=choice)
    assert body["tool_choice"] == engine
    assert body["tools"][0]["function"]["strict"] is True
    assert "strict" not in chat(tools=[WEATHER])["tools"][0]["function"]
    kept = chat(tools=[{**WEATHER, "strict": False}], tool_choice=choice)
    assert kept["tools"][0]["function"]["strict"] is False


def test_only_allowed_tools_are_offered() -> None:
    allowed = {
        "type": "allowed_tools",
        "mode": "auto",
        "tools": [{"type": "function", "name": "get_weather"}],
    }
    body = chat(tools=[WEATHER, {"type": "function", "name": "other"}], tool_choice=allowed)
    assert [each["function"]["name"] for each in body["tools"]] == ["get_weather"]
    assert body["tool_choice"] == "auto"


def test_tools_of_a_namespace_have_flat_names() -> None:
    body = chat(
        tools=[WEATHER, NAMESPACE],
        tool_choice={"type": "function", "name": "get_weather", "namespace": "crm"},
        input=[
            {"role": "user", "content": "Go"},
            {
                "type": "function_call",
                "call_id": "c",
                "namespace": "crm",
                "name": "get_weather",
                "arguments": "{}",
            },
            {"type": "function_call_output", "call_id": "c", "output": "done"},
        ],
    )
    offered = [tool["function"] for tool in body["tools"]]
    names = ["get_weather", "crm__get_weather", "crm__apply_patch"]
    assert [each["name"] for each in offered] == names
    assert offered[1]["description"] == "Customers.\n\nTells the weather of a place."
    assert offered[1]["parameters"] == WEATHER["parameters"]
    assert body["tool_choice"]["function"] == {"name": "crm__get_weather"}
    assert body["messages"][1]["tool_calls"][0]["function"]["name"] == "crm__get_weather"


def test_a_namespace_is_echoed_as_it_was_given() -> None:
    (echoed,) = toolbox([NAMESPACE], "auto").tools
    assert echoed["name"] == "crm"
    assert [each["name"] for each in echoed["tools"]] == ["get_weather", "apply_patch"]


def test_a_custom_tool_is_a_function_of_one_text() -> None:
    grammar = {"type": "grammar", "syntax": "lark", "definition": "start: /.+/"}
    body = chat(
        tools=[{**PATCH, "format": grammar}],
        tool_choice={"type": "custom", "name": "apply_patch"},
        input=[
            {"role": "user", "content": "Fix it."},
            {"type": "custom_tool_call", "call_id": "c", "name": "apply_patch", "input": 'a "b"'},
            {"type": "custom_tool_call_output", "call_id": "c", "output": "done"},
        ],
    )
    function = body["tools"][0]["function"]
    assert function["parameters"]["required"] == ["input"]
    assert "start: /.+/" in function["description"]
    called = body["messages"][1]["tool_calls"][0]["function"]
    assert orjson.loads(called["arguments"]) == {"input": 'a "b"'}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": None}, "input"),
        ({"input": ""}, "input"),
        ({"input": []}, "input"),
        ({"input": 5}, "input"),
        ({"input": [{"role": "user"}]}, "input[0].content"),
        ({"input": [{"role": "tool", "content": "x"}]}, "input[0].role"),
        ({"input": [{"type": "web_search_call"}]}, "input[0].type"),
        ({"input": [{}]}, "input[0].type"),
        ({"input": [{"role": "user", "content": [{"type": "x"}]}]}, "input[0].content[0].type"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_text"}]}]},
            "input[0].content[0].text",
        ),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image", "file_id": "f"}]}]},
            "input[0].content[0].image_url",
        ),
        ({"input": [{"role": "user", "content": [5]}]}, "input[0].content[0]"),
        ({"input": [{"type": "function_call", "name": "f"}]}, "input[0].call_id"),
        ({"input": [{**CALL, "status": "odd"}]}, "input[0].status"),
        ({"input": [{"type": "function_call_output", "call_id": "q", "output": "x"}]}, "input"),
        ({"instructions": 5}, "instructions"),
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": 2.5}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"metadata": {"k": "v" * 513}}, "metadata[]"),
        ({"metadata": {str(n): "v" for n in range(17)}}, "metadata"),
        ({"include": ["odd"]}, "include[0]"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"messages": []}, "messages"),
        ({"max_tokens": 5}, "max_tokens"),
        ({"max_completion_tokens": 5}, "max_completion_tokens"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"reasoning_effort": "low"}, "reasoning_effort"),
        ({"functions": [{"name": "f"}]}, "functions"),
        ({"n": 2}, "n"),
        ({"logprobs": True}, "logprobs"),
        ({"prompt": {"id": "p"}}, "prompt"),
        ({"background": True, "store": False}, "store"),
        ({"text": {"format": {"type": "odd"}}}, "text.format.type"),
        ({"text": {"format": {"type": "json_schema", "name": "n"}}}, "text.format.schema"),
        ({"text": {"format": {"type": "json_schema", "name": 5}}}, "text.format.name"),
        ({"text": {"verbosity": "odd"}}, "text.verbosity"),
        ({"reasoning": {"effort": "odd"}}, "reasoning.effort"),
        ({"truncation": "odd"}, "truncation"),
        ({"tools": [{"type": "teleport"}]}, "tools[0].type"),
        ({"tools": [{"type": "web_search"}], "tool_choice": "required"}, "tool_choice"),
        ({"tools": [WEATHER, {"type": "function"}]}, "tools[1].name"),
        ({"tools": [{**WEATHER, "parameters": 5}]}, "tools[0].parameters"),
        ({"tools": [{**WEATHER, "strict": "yes"}]}, "tools[0].strict"),
        ({"tools": [WEATHER, WEATHER]}, "tools[1].name"),
        ({"tools": [{"type": "function", "name": "a b"}]}, "tools[0].name"),
        ({"tools": [{**PATCH, "format": {"type": "odd"}}]}, "tools[0].format.type"),
        ({"tools": [{"type": "namespace", "name": "n"}]}, "tools[0].tools"),
        ({"tools": [{**NAMESPACE, "tools": [NAMESPACE]}]}, "tools[0].tools[0].type"),
        ({"tools": [{**NAMESPACE, "tools": [WEATHER, WEATHER]}]}, "tools[0].tools[1].name"),
        ({"tool_choice": "odd"}, "tool_choice"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": {"type": "function", "name": "f"}}, "tool_choice"),
        ({"tool_choice": {"type": "file_search"}}, "tool_choice.type"),
    ],
)
def test_bad_input_is_refused_with_its_field(fields: dict[str, Any], param: str) -> None:
    assert refused(**fields).param == param


def test_an_unknown_tool_is_refused_with_what_is_served() -> None:
    assert "'function', 'custom'" in refused(tools=[{"type": "teleport"}]).message


def test_a_body_that_is_no_object_is_refused() -> None:
    for body in (b"", b"[]", b"{", b"null", b'{"input": "x"}', b"\xff"):
        with pytest.raises(InvalidRequest):
            parse(body)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(
            ["type", "role", "content", "text", "id", "name", "call_id", "arguments", "output",
             "format", "schema", "parameters", "strict", "tools", "mode", "image_url", "summary"]
        ),
        inner
        | st.sampled_from(
            ["message", "user", "assistant", "input_text", "output_text", "function", "custom",
             "function_call", "function_call_output", "reasoning", "json_schema", "grammar",
             "allowed_tools", "auto", "item_reference", "input_image", "input_file"]
        ),
        max_size=4,
    ),
    max_leaves=12,
)  # fmt: skip


@given(st.lists(JSON, max_size=3), st.lists(JSON, max_size=2), JSON, JSON)
def test_any_json_is_read_or_refused(entries: Any, tools: Any, choice: Any, text: Any) -> None:
    fields = {"input": entries, "tools": tools, "tool_choice": choice, "text": {"format": text}}
    for some in (fields, {"input": entries}, {"tools": tools}, {"text": text}):
        try:
            body = chat(**some)
        except InvalidRequest:
            continue
        assert orjson.loads(orjson.dumps(body)) == body


@pytest.mark.parametrize("name", ["input", "tools"])
def test_what_cannot_be_written_again_is_refused(name: str) -> None:
    deep = b'{"a":' * 300 + b"1" + b"}" * 300
    for odd in (b"123456789012345678901234567890", deep):
        with pytest.raises(InvalidRequest) as caught:
            parse(b'{"model": "m", "input": "x", "%b": [{"x": %b}]}' % (name.encode(), odd))
        assert caught.value.param in (name, f"{name}[0].type", None)


@pytest.mark.parametrize(
    ("fields", "tier"),
    [
        ({}, None),
        ({"service_tier": "ultrafast"}, "priority"),
        ({"service_tier": "flex"}, "flex"),
        ({"background": True, "background_options": {"completion_window": "8h"}}, "flex"),
        ({"background": True, "background_options": {"completion_window": "soonest"}}, None),
        ({"background_options": {"completion_window": "8h"}}, None),
    ],
)
def test_tiers_are_those_of_every_surface(fields: dict[str, Any], tier: str | None) -> None:
    assert request(**fields).tier == tier


def test_null_fields_are_as_good_as_absent() -> None:
    nothing: dict[str, Any] = dict.fromkeys(
        ["instructions", "tools", "tool_choice", "text", "reasoning", "metadata", "conversation",
         "prompt", "stop", "top_k", "include", "store", "stream", "previous_response_id"]
    )  # fmt: skip
    assert set(chat(**nothing)) == {"model", "messages"}


def test_a_hosted_tool_is_echoed_and_not_offered() -> None:
    hosted = {"type": "web_search", "search_context_size": "low"}
    found = toolbox([hosted, WEATHER], "auto")
    assert found.tools[0] == hosted
    assert [each["function"]["name"] for each in found.offered] == [WEATHER["name"]]
