"""The public Open Responses suite's cases in words of our own, and `openai`'s own client."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import openai
import pytest
from httpx2 import AsyncClient
from openai import AsyncOpenAI
from openai.types.responses import (
    FunctionToolParam,
    ResponseFunctionToolCall,
    ResponseOutputMessage,
    ToolParam,
)
from pydantic import BaseModel

from backends.clock import SystemClock
from backends.simulated.replica import SimulatedReplica
from backends.simulated.server import serve_replicas
from backends.simulated.settings import Faults, SimulatedSettings
from backends.store import connect
from gateway.keys import Grant, KeyStore
from gateway.listeners import Bound
from gateway.responses_store import ResponsesStore
from gateway.server import serve
from gateway.settings import Settings

pytestmark = pytest.mark.system

MODEL = "llama2-70b"
WEATHER: FunctionToolParam = {
    "type": "function",
    "name": "get_weather",
    "description": "Tells the weather of a place.",
    "parameters": {
        "type": "object",
        "properties": {"location": {"type": "string"}},
        "required": ["location"],
        "additionalProperties": False,
    },
    "strict": None,
}
FUNCTIONS: list[ToolParam] = [WEATHER]
PATCH = {"type": "custom", "name": "apply_patch", "description": "Edits files."}

# The numbers of the public schema that may not be null, and its other required fields.
NUMBERS = ("created_at", "temperature", "top_p", "presence_penalty", "frequency_penalty")
OTHERS = (
    "id object completed_at status incomplete_details model previous_response_id instructions "
    "output error tools tool_choice truncation parallel_tool_calls text top_logprobs reasoning "
    "usage max_output_tokens max_tool_calls store background service_tier metadata user "
    "safety_identifier prompt_cache_key"
)


@dataclass(frozen=True, slots=True)
class Site:
    """A gateway before simulated replicas, and the keys of two tenants."""

    base_url: str
    key: str
    other_key: str
    replica: SimulatedReplica

    def client(self, key: str | None = None) -> AsyncOpenAI:
        """Give the package's client, which repeats nothing by itself."""
        return AsyncOpenAI(base_url=self.base_url, api_key=key or self.key, max_retries=0)

    def http(self) -> AsyncClient:
        """Give a plain HTTP client with the key."""
        headers = {"authorization": f"Bearer {self.key}"}
        return AsyncClient(base_url=self.base_url, headers=headers, timeout=30.0)


@pytest.fixture(scope="module")
async def site(store_url: str) -> AsyncIterator[Site]:
    async with started(store_url.replace("db=0", "db=7")) as found:
        yield found


@asynccontextmanager
async def started(redis_url: str, faults: Faults | None = None) -> AsyncIterator[Site]:
    """Serve a gateway before one simulated replica, which is struck by these faults."""
    async with AsyncExitStack() as stack:
        redis = connect(redis_url)
        stack.push_async_callback(redis.aclose)
        keys = KeyStore(redis, SystemClock())
        key, _ = await keys.create(Grant(tenant="a"))
        other, _ = await keys.create(Grant(tenant="b"))
        simulated = SimulatedSettings(model=MODEL, mean_output_tokens=20)
        (replica,) = await stack.enter_async_context(serve_replicas(simulated))
        bound = await stack.enter_async_context(gateway(redis_url, replica.url))
        found = Site(bound.base_url, key, other, replica)
        await until(lambda: _serves(found))
        if faults is not None:
            replica.faults = faults
        yield found


@asynccontextmanager
async def gateway(redis_url: str, replica_url: str, **more: Any) -> AsyncIterator[Bound]:
    """Serve a gateway that drains for a second at most."""
    settings = Settings.model_validate(
        {
            "port": 0,
            "admin_port": 0,
            "timeouts": {"drain_s": 0.2},
            "telemetry": {"log_level": "error"},
            "models": {MODEL: {"replicas": [{"url": replica_url}]}},
            **more,
        }
    )
    ready: asyncio.Queue[Bound] = asyncio.Queue()
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(
            serve(settings, redis_url=redis_url, on_ready=ready.put_nowait, stop=stop)
        )
        try:
            yield await ready.get()
        finally:
            stop.set()


async def _serves(site: Site) -> bool:
    async with site.http() as http:
        answer = await http.post("responses", json={"model": MODEL, "input": "x", "store": False})
        return answer.status_code == 200


async def until(holds: Callable[[], Awaitable[bool]], within_s: float = 20.0) -> None:
    """Wait until a condition holds."""
    async with asyncio.timeout(within_s):
        while not await holds():
            await asyncio.sleep(0.02)


def check(response: dict[str, Any], status: str = "completed") -> dict[str, Any]:
    """Check an object against what the public schema requires of every response."""
    assert not [name for name in (*NUMBERS, *OTHERS.split()) if name not in response]
    for name in NUMBERS:
        assert isinstance(response[name], int | float)
    assert response["object"] == "response"
    assert response["status"] == status
    assert response["text"]["format"]["type"] in ("text", "json_object", "json_schema")
    assert isinstance(response["metadata"], dict)
    if status == "completed":
        assert response["output"]
        assert isinstance(response["completed_at"], int)
        usage = response["usage"]
        assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]
        assert isinstance(usage["input_tokens_details"]["cached_tokens"], int)
        assert isinstance(usage["output_tokens_details"]["reasoning_tokens"], int)
    for item in response["output"]:
        assert item["id"]
        if item["type"] == "message":
            assert item.get("phase", "final_answer") in ("commentary", "final_answer")
            for part in item["content"]:
                assert (part["type"], part["annotations"], part["logprobs"]) == (
                    "output_text",
                    [],
                    [],
                )
        if item["type"] == "function_call":
            assert isinstance(json.loads(item["arguments"]), dict)
    return response


async def create(site: Site, **fields: Any) -> dict[str, Any]:
    async with site.http() as http:
        answer = await http.post("responses", json={"model": MODEL, **fields})
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found


def said(role: str, text: str, **more: Any) -> dict[str, Any]:
    return {"type": "message", "role": role, "content": text, **more}


@pytest.mark.parametrize(
    "given",
    [
        pytest.param([said("user", "Greet me in three words.")], id="basic-response"),
        pytest.param(
            [said("system", "Speak like a sailor."), said("user", "Greet me.")], id="system-prompt"
        ),
        pytest.param(
            [
                said("user", "I am called Ada."),
                said("assistant", "Good to meet you, Ada."),
                said("user", "What am I called?"),
            ],
            id="multi-turn",
        ),
        pytest.param(
            [
                said("user", "Add two and two."),
                said("assistant", "I add them up.", phase="commentary"),
                said("assistant", "Four.", phase="final_answer"),
                said("user", "And three?"),
            ],
            id="assistant-phase",
        ),
    ],
)
async def test_open_responses_text(site: Site, given: list[dict[str, Any]]) -> None:
    response = check(await create(site, input=given))
    assert [item["type"] for item in response["output"]] == ["message"]


async def test_open_responses_output_phase_schema(site: Site) -> None:
    response = check(await create(site, input="Say something.", instructions="Be brief."))
    assert response["instructions"] == "Be brief."


async def test_open_responses_streaming(site: Site) -> None:
    events = []
    async with (
        site.http() as http,
        http.stream(
            "POST",
            "responses",
            json={"model": MODEL, "input": [said("user", "Count to five.")], "stream": True},
        ) as answer,
    ):
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.headers["x-request-id"]
        name, ended = "", False
        async for line in answer.aiter_lines():
            if line.startswith("event: "):
                name = line.removeprefix("event: ")
            elif line == "data: [DONE]":
                ended = True
            elif line.startswith("data: "):
                assert not ended
                event = json.loads(line.removeprefix("data: "))
                assert event["type"] == name
                events.append(event)
    assert ended
    assert [event["sequence_number"] for event in events] == [*range(len(events))]
    assert events[0]["type"] == "response.created"
    check(events[0]["response"], "in_progress")
    assert events[-1]["type"] == "response.completed"
    check(events[-1]["response"])
    told = "".join(e["delta"] for e in events if e["type"] == "response.output_text.delta")
    assert told == events[-1]["response"]["output"][0]["content"][0]["text"]


@pytest.mark.parametrize("choice", ["required", {"type": "function", "name": "get_weather"}])
async def test_open_responses_tool_calling(site: Site, choice: Any) -> None:
    response = check(
        await create(site, input="Weather in Rome?", tools=[WEATHER], tool_choice=choice)
    )
    calls = [item for item in response["output"] if item["type"] == "function_call"]
    assert calls
    assert calls[0]["name"] == "get_weather"
    assert set(json.loads(calls[0]["arguments"])) == {"location"}
    assert response["tool_choice"] == choice
    assert response["tools"][0]["strict"] is True


async def test_open_responses_function_call_roundtrip(site: Site) -> None:
    asked = said("user", "Weather in Rome?")
    first = await create(site, input=[asked], tools=[WEATHER], tool_choice="required")
    call = next(item for item in first["output"] if item["type"] == "function_call")
    output = {"type": "function_call_output", "call_id": call["call_id"], "output": "Sunny."}
    check(await create(site, input=[asked, *first["output"], output], tools=[WEATHER]))


async def test_open_responses_previous_response_id(site: Site) -> None:
    first = check(await create(site, input="I am called Ada.", instructions="Be brief."))
    second = check(await create(site, input="Who am I?", previous_response_id=first["id"]))
    third = check(await create(site, input="Sure?", previous_response_id=second["id"]))
    assert second["previous_response_id"] == first["id"]
    assert second["instructions"] is None
    used = [each["usage"]["input_tokens"] for each in (first, second, third)]
    assert used == sorted(used)


async def test_the_client_creates_reads_and_forgets(site: Site) -> None:
    async with site.client() as client:
        made = await client.responses.create(
            model=MODEL, input="Hello", metadata={"k": "v"}, service_tier="priority", user="u"
        )
        assert made.output_text
        assert made.service_tier == "priority"
        again = await client.responses.retrieve(made.id)
        assert again == made
        assert again.metadata == {"k": "v"}
        items = await client.responses.input_items.list(made.id)
        assert [item.type for item in items.data] == ["message"]
        await client.responses.delete(made.id)
        with pytest.raises(openai.NotFoundError):
            await client.responses.retrieve(made.id)


async def test_input_items_come_in_pages(site: Site) -> None:
    async with site.client() as client:
        made = await client.responses.create(
            model=MODEL, input=[{"role": "user", "content": str(n)} for n in range(7)]
        )
        listed = client.responses.input_items.list(made.id, limit=3, order="asc")
        told = [item.to_dict()["content"] async for item in listed]
    assert told == [[{"type": "input_text", "text": str(n)}] for n in range(7)]


async def test_the_client_streams_text(site: Site) -> None:
    async with (
        site.client() as client,
        client.responses.stream(model=MODEL, input="Hello") as stream,
    ):
        kinds = [event.type async for event in stream]
        final = await stream.get_final_response()
        assert kinds[-1] == "response.completed"
        assert final.output_text
        kept = await client.responses.retrieve(final.id)
        assert kept.output_text == final.output_text
        assert kept.output[0].to_dict()["id"] == final.output[0].to_dict()["id"]


async def test_the_client_streams_tool_calls(site: Site) -> None:
    async with (
        site.client() as client,
        client.responses.stream(
            model=MODEL,
            input="Weather?",
            tools=FUNCTIONS,
            tool_choice="required",
        ) as stream,
    ):
        kinds = [event.type async for event in stream]
        final = await stream.get_final_response()
    assert "response.function_call_arguments.delta" in kinds
    assert "response.function_call_arguments.done" in kinds
    call = final.output[0]
    assert isinstance(call, ResponseFunctionToolCall)
    assert isinstance(json.loads(call.arguments), dict)


async def test_a_custom_tool_is_called_with_text(site: Site) -> None:
    response = await create(
        site, input="Fix it.", tools=[PATCH], tool_choice={"type": "custom", "name": "apply_patch"}
    )
    call = response["output"][0]
    assert (call["type"], call["name"]) == ("custom_tool_call", "apply_patch")
    assert isinstance(call["input"], str)


class City(BaseModel):
    """The shape that an answer must have."""

    name: str
    people: int


async def test_the_client_parses(site: Site) -> None:
    async with site.client() as client:
        found = await client.responses.parse(model=MODEL, input="A city?", text_format=City)
    assert isinstance(found.output_parsed, City)


async def test_the_length_limit_makes_it_incomplete(site: Site) -> None:
    async with site.client() as client:
        found = await client.responses.create(
            model=MODEL,
            input="Talk.",
            max_output_tokens=16,
            extra_body={"ignore_eos": True},
        )
    assert found.status == "incomplete"
    assert found.incomplete_details is not None
    assert found.incomplete_details.reason == "max_output_tokens"
    message = found.output[0]
    assert isinstance(message, ResponseOutputMessage)
    assert message.status == "incomplete"


async def test_store_false_keeps_nothing(site: Site, store_url: str) -> None:
    made = await create(site, input="Hello", store=False)
    assert made["store"] is False
    redis = connect(store_url.replace("db=0", "db=7"))
    assert await redis.keys(f"*{made['id']}*") == []
    await redis.aclose()


async def test_tenants_do_not_see_each_other(site: Site) -> None:
    made = await create(site, input="Hello")
    async with site.client(site.other_key) as stranger:
        for attempt in (
            stranger.responses.retrieve(made["id"]),
            stranger.responses.delete(made["id"]),
            stranger.responses.cancel(made["id"]),
            stranger.responses.input_items.list(made["id"]),
        ):
            with pytest.raises(openai.NotFoundError):
                await attempt
        with pytest.raises(openai.BadRequestError) as caught:
            await stranger.responses.create(model=MODEL, input="x", previous_response_id=made["id"])
        assert caught.value.code == "previous_response_not_found"
        assert caught.value.param == "previous_response_id"


async def test_only_background_responses_are_cancelled(site: Site) -> None:
    async with site.client() as client:
        made = await client.responses.create(model=MODEL, input="Hello")
        with pytest.raises(openai.BadRequestError, match="synchronous"):
            await client.responses.cancel(made.id)


async def test_a_background_response_is_polled(site: Site) -> None:
    async with site.client() as client:
        made = await client.responses.create(model=MODEL, input="Hello", background=True)
        assert made.status == "queued"
        assert made.background

        async def ended() -> bool:
            return (await client.responses.retrieve(made.id)).status == "completed"

        await until(ended)
        assert (await client.responses.retrieve(made.id)).output_text
        assert (await client.responses.cancel(made.id)).status == "completed"
        await client.responses.create(model=MODEL, input="More", previous_response_id=made.id)


LONG = {"max_output_tokens": 2_000, "ignore_eos": True}


async def test_a_background_response_is_cancelled(site: Site) -> None:
    async with site.client() as client:
        made = await create(site, input="Talk.", background=True, **LONG)

        async def begun() -> bool:
            return bool(site.replica.live_calls)

        async def over() -> bool:
            return not site.replica.live_calls

        await until(begun)
        assert (await client.responses.cancel(made["id"])).status == "cancelled"
        await until(over)
        assert (await client.responses.cancel(made["id"])).status == "cancelled"
        assert (await client.responses.retrieve(made["id"])).output == []


async def test_deleting_a_background_response_stops_it(site: Site) -> None:
    async with site.client() as client:
        made = await create(site, input="Talk.", background=True, **LONG)
        await client.responses.delete(made["id"])

        async def over() -> bool:
            return not site.replica.live_calls

        await until(over)


async def test_a_background_response_outlives_a_full_queue(site: Site) -> None:
    site.replica.faults = Faults(refuse_rate=1.0)
    async with site.client() as client:
        made = await client.responses.create(model=MODEL, input="Hello", background=True)
        refused = site.client()
        with pytest.raises(openai.InternalServerError):
            await refused.responses.create(model=MODEL, input="Hello")
        site.replica.faults = Faults()

        async def ended() -> bool:
            return (await client.responses.retrieve(made.id)).status == "completed"

        await until(ended)
        await refused.close()


async def test_a_shutdown_ends_what_runs_in_the_background(store_url: str) -> None:
    redis_url = store_url.replace("db=0", "db=8")
    async with started(redis_url) as site:
        made = await create(site, input="Talk.", background=True, **LONG)

        async def begun() -> bool:
            return bool(site.replica.live_calls)

        await until(begun)
    redis = connect(redis_url)
    store = ResponsesStore(redis, ttl_s=60, max_bytes=100_000)
    found = await store.find("a", made["id"])
    await redis.aclose()
    assert found is not None
    assert found.document["status"] == "failed"
    assert "shut down" in found.document["error"]["message"]


async def test_a_break_is_told_as_an_event(store_url: str) -> None:
    faults = Faults(die_after_frames=4)
    async with started(store_url.replace("db=0", "db=8"), faults) as site, site.client() as client:
        stream = await client.responses.create(model=MODEL, input="Hello", stream=True)
        with pytest.raises(openai.APIError, match="stopped before"):
            [event async for event in stream]
        for background in (False, True):
            asked = {"model": MODEL, "input": "Hello", "stream": True, "background": background}
            async with client.responses.with_streaming_response.create(**asked) as raw:  # type: ignore[call-overload]
                text = (await raw.read()).decode()
            frames = text.split("\n\n")
            assert frames[-2:] == ["data: [DONE]", ""]
            told, failed = (json.loads(each.partition("data: ")[2]) for each in frames[-4:-2])
            assert told["type"] == "error"
            assert failed["type"] == "response.failed"
            assert failed["response"]["status"] == "failed"
            assert failed["response"]["error"]["code"] == "server_error"
            assert failed["sequence_number"] == told["sequence_number"] + 1


async def test_without_the_store_answers_are_given_but_not_kept(site: Site) -> None:
    nowhere = "unix:///nonexistent/store.sock"
    async with (
        gateway(nowhere, site.replica.url, no_auth=True) as bound,
        AsyncClient(base_url=bound.base_url, timeout=30.0) as http,
    ):

        async def served() -> bool:
            body = {"model": MODEL, "input": "Hello"}
            answer = await http.post("responses", json=body)
            return answer.status_code == 200 and answer.json()["store"] is False

        await until(served)
        for answer in (
            await http.get("responses/resp_1"),
            await http.delete("responses/resp_1"),
            await http.post(
                "responses", json={"model": MODEL, "input": "x", "previous_response_id": "resp_1"}
            ),
            await http.post("responses", json={"model": MODEL, "input": "x", "background": True}),
        ):
            assert answer.status_code == 503
            assert answer.headers["retry-after"] == "5"
            assert answer.json()["error"]["code"] == "response_store_unavailable"


async def test_a_background_stream_is_resumed(site: Site) -> None:
    async with site.client() as client:
        stream = await client.responses.create(
            model=MODEL, input="Hello", background=True, stream=True
        )
        first = []
        async for event in stream:
            first.append(event)
            if len(first) == 4:
                break
        await stream.close()
        assert [event.type for event in first[:3]] == [
            "response.created",
            "response.queued",
            "response.in_progress",
        ]
        response_id = first[0].response.id  # type: ignore[union-attr]
        rest = [
            event
            async for event in await client.responses.retrieve(
                response_id, stream=True, starting_after=3
            )
        ]
        numbers = [event.sequence_number for event in (*first, *rest)]
        assert numbers == [*range(len(numbers))]
        assert rest[-1].type == "response.completed"
        assert rest[-1].response == await client.responses.retrieve(response_id)


async def test_tokens_are_counted(site: Site) -> None:
    async with site.client() as client:
        counted = await client.responses.input_tokens.count(model=MODEL, input="Hello there")
        made = await client.responses.create(model=MODEL, input="Hello there")
    assert made.usage is not None
    assert counted.input_tokens == made.usage.input_tokens


@pytest.mark.parametrize(
    ("fields", "status", "param", "code"),
    [
        ({}, 400, "input", "missing_required_parameter"),
        ({"input": "x", "model": "odd"}, 404, "model", "model_not_found"),
        ({"input": "x", "tools": [{"type": "teleport"}]}, 400, "tools[0].type", None),
        ({"input": "x", "service_tier": "odd"}, 400, "service_tier", None),
        ({"input": "x " * 300_000}, 400, None, "context_length_exceeded"),
    ],
)
async def test_refusals_name_the_field(
    site: Site, fields: dict[str, Any], status: int, param: str | None, code: str | None
) -> None:
    async with site.http() as http:
        answer = await http.post("responses", json={"model": MODEL, **fields})
    assert answer.status_code == status
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    if param is not None:
        assert error["param"] == param
    if code is not None:
        assert error["code"] == code
