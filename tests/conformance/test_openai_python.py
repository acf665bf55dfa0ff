"""The `openai` package for Python, unmodified: what its users do works as they know it."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from openai.types.chat import ChatCompletionFunctionToolParam, ChatCompletionMessageParam
from pydantic import BaseModel

from backends.simulated.settings import Faults
from tests.conformance.conftest import OTHER, SERVED, Served
from tests.gateways import running_gateway, until

HELLO: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Hello there"}]
WEATHER: ChatCompletionFunctionToolParam = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "strict": True,
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}


class Weather(BaseModel):
    """The shape of an answer."""

    city: str
    degrees: int


@pytest.fixture
async def client(served: Served) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=served.base_url, api_key=served.key, max_retries=0) as found:
        yield found


async def test_the_synchronous_client_does_all_of_it(served: Served) -> None:
    def work() -> None:
        with OpenAI(base_url=served.base_url, api_key=served.key, max_retries=0) as client:
            made = client.chat.completions.create(model=SERVED, messages=HELLO, max_tokens=5)
            assert made.choices[0].message.content
            assert made.model == SERVED
            assert made._request_id is not None
            chunks = [*client.chat.completions.create(model=SERVED, messages=HELLO, stream=True)]
            assert chunks[-1].choices[0].finish_reason in {"stop", "length"}
            assert client.completions.create(model=SERVED, prompt="a", max_tokens=2).choices[0].text
            assert client.models.retrieve(SERVED).id == SERVED
            with pytest.raises(openai.NotFoundError):
                client.models.retrieve("no/such")

    await asyncio.to_thread(work)


async def test_a_chat_has_an_id_and_usage(client: AsyncOpenAI) -> None:
    made = await client.chat.completions.create(model=SERVED, messages=HELLO, max_tokens=5)
    assert made.usage is not None
    assert made.usage.total_tokens == made.usage.prompt_tokens + made.usage.completion_tokens
    assert made._request_id is not None
    assert made._request_id.startswith("req_")


async def test_a_stream_gives_usage_last(client: AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(
        model=SERVED,
        messages=HELLO,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = [chunk async for chunk in stream]
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert {chunk.model for chunk in chunks} == {SERVED}


async def test_the_stream_helper_gathers_the_answer(client: AsyncOpenAI) -> None:
    async with client.chat.completions.stream(model=SERVED, messages=HELLO) as stream:
        deltas = [event.delta async for event in stream if event.type == "content.delta"]
        final = await stream.get_final_completion()
    assert final.choices[0].message.content == "".join(deltas)


async def test_the_stream_helper_gathers_tool_calls(client: AsyncOpenAI) -> None:
    async with client.chat.completions.stream(
        model=SERVED, messages=HELLO, tools=[WEATHER], tool_choice="required"
    ) as stream:
        kinds = {event.type async for event in stream}
        final = await stream.get_final_completion()
    assert "tool_calls.function.arguments.delta" in kinds
    calls = final.choices[0].message.tool_calls
    assert calls is not None
    assert calls[0].function.name == "get_weather"
    assert set(calls[0].function.parsed_arguments or {}) == {"city"}  # type: ignore[call-overload]


async def test_an_answer_is_parsed_into_a_model(client: AsyncOpenAI) -> None:
    made = await client.chat.completions.parse(
        model=SERVED, messages=HELLO, response_format=Weather
    )
    assert isinstance(made.choices[0].message.parsed, Weather)


async def test_headers_can_be_read(client: AsyncOpenAI) -> None:
    raw = await client.chat.completions.with_raw_response.create(
        model=SERVED, messages=HELLO, max_tokens=2
    )
    assert raw.headers["openai-processing-ms"].isdecimal()
    assert raw.parse().id
    async with client.chat.completions.with_streaming_response.create(
        model=SERVED, messages=HELLO, max_tokens=2, stream=True
    ) as streaming:
        lines = [line async for line in streaming.iter_lines() if line]
    assert lines[-1] == "data: [DONE]"


async def test_embeddings_come_as_base64_and_as_numbers(client: AsyncOpenAI) -> None:
    packed = await client.embeddings.create(model=SERVED, input=["a", "b"])
    plain = await client.embeddings.create(model=SERVED, input=["a", "b"], encoding_format="float")
    assert packed.data[1].embedding == pytest.approx(plain.data[1].embedding, abs=1e-6)
    assert packed.model == SERVED


async def test_models_are_listed_as_far_as_the_key_goes(
    served: Served, client: AsyncOpenAI
) -> None:
    assert {card.id async for card in client.models.list()} == {SERVED, OTHER}
    async with AsyncOpenAI(base_url=served.base_url, api_key=served.narrow_key) as narrow:
        assert {card.id async for card in narrow.models.list()} == {OTHER}
        with pytest.raises(openai.NotFoundError) as told:
            await narrow.chat.completions.create(model=SERVED, messages=HELLO)
        assert told.value.code == "model_not_found"
        assert told.value.param == "model"


@pytest.mark.parametrize("key", ["sk-wrong", "x" * 3000, "Bearer sk"])
async def test_a_wrong_key_is_an_authentication_error(served: Served, key: str) -> None:
    async with AsyncOpenAI(base_url=served.base_url, api_key=key, max_retries=0) as client:
        with pytest.raises(openai.AuthenticationError) as told:
            await client.chat.completions.create(model=SERVED, messages=HELLO)
    assert told.value.code == "invalid_api_key"
    assert told.value.request_id is not None


@pytest.mark.parametrize(
    ("fields", "kind", "param", "code"),
    [
        ({"temperature": 9}, openai.BadRequestError, "temperature", "invalid_value"),
        ({"model": "nobody"}, openai.NotFoundError, "model", "model_not_found"),
        (
            {"messages": [{"role": "user", "content": "word " * 20_000}]},
            openai.BadRequestError,
            None,
            "context_length_exceeded",
        ),
        ({"model": OTHER}, openai.InternalServerError, None, "no_replica_ready"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_errors_have_their_classes_and_fields(
    client: AsyncOpenAI,
    fields: dict[str, Any],
    kind: type[openai.APIStatusError],
    param: str | None,
    code: str,
    stream: bool,
) -> None:
    asked: dict[str, Any] = {"model": SERVED, "messages": HELLO, "stream": stream, **fields}
    with pytest.raises(kind) as told:
        await client.chat.completions.create(**asked)
    assert told.value.code == code
    assert told.value.param == param
    assert told.value.request_id is not None


async def test_a_body_over_the_limit_is_413_and_no_connection_error(client: AsyncOpenAI) -> None:
    big = "x" * (8 * 1024 * 1024)
    with pytest.raises(openai.APIStatusError) as told:
        await client.chat.completions.create(
            model=SERVED, messages=[{"role": "user", "content": big}]
        )
    assert told.value.status_code == 413
    assert told.value.code == "request_too_large"


async def test_a_refused_call_is_tried_again_when_retry_after_says(served: Served) -> None:
    statuses = []

    async def learn(response: Any) -> None:
        statuses.append(response.status_code)
        for replica in served.replicas:
            replica.faults = Faults()

    for replica in served.replicas:
        replica.faults = Faults(refuse_rate=1.0)
    async with AsyncOpenAI(
        base_url=served.base_url,
        api_key=served.key,
        max_retries=2,
        http_client=openai.DefaultAsyncHttpxClient(event_hooks={"response": [learn]}),
    ) as client:
        made = await client.chat.completions.with_raw_response.create(
            model=SERVED, messages=HELLO, max_tokens=2
        )
    assert statuses == [503, 200]
    assert made.retries_taken == 1


async def test_an_overloaded_engine_is_a_server_error_with_retry_after(served: Served) -> None:
    for replica in served.replicas:
        replica.faults = Faults(refuse_rate=1.0)
    try:
        async with AsyncOpenAI(
            base_url=served.base_url, api_key=served.key, max_retries=0
        ) as client:
            with pytest.raises(openai.InternalServerError) as told:
                await client.chat.completions.create(model=SERVED, messages=HELLO)
    finally:
        for replica in served.replicas:
            replica.faults = Faults()
    assert told.value.status_code == 503
    assert int(told.value.response.headers["retry-after"]) >= 1


async def test_a_full_gateway_queue_is_a_rate_limit_error(served: Served, redis_url: str) -> None:
    url = served.replicas[0].url
    async with (
        running_gateway(
            redis_url, {SERVED: [url]}, max_running=1, queue={"max_waiting": 0}
        ) as gateway,
        AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key="none", max_retries=0) as client,
    ):
        stream = await client.chat.completions.create(
            model=SERVED,
            messages=HELLO,
            stream=True,
            max_tokens=2000,
            extra_body={"ignore_eos": True},
        )
        with pytest.raises(openai.RateLimitError) as told:
            await client.chat.completions.create(model=SERVED, messages=HELLO)
        assert told.value.code == "queue_full"
        assert int(told.value.response.headers["retry-after"]) >= 1
        await stream.close()
        await until(lambda: not any(gateway.leftovers().values()))


async def test_a_stream_that_breaks_raises_in_the_middle(served: Served) -> None:
    for replica in served.replicas:
        replica.faults = Faults(die_after_frames=3)
    try:
        async with AsyncOpenAI(base_url=served.base_url, api_key=served.key) as client:
            stream = await client.chat.completions.create(
                model=SERVED, messages=HELLO, stream=True, max_tokens=50
            )
            with pytest.raises(openai.APIError) as told:
                async for _ in stream:
                    pass
        assert told.value.code == "stream_broken"
    finally:
        for replica in served.replicas:
            replica.faults = Faults()


async def test_closing_a_stream_frees_the_replica(served: Served, client: AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(
        model=SERVED,
        messages=HELLO,
        stream=True,
        max_tokens=3000,
        extra_body={"ignore_eos": True},
    )
    async for _ in stream:
        break
    await stream.close()
    await until(lambda: not any(served.gateway.leftovers().values()))
    await until(lambda: not any(replica.live_calls for replica in served.replicas))


async def test_a_client_that_gives_up_frees_the_replica(served: Served) -> None:
    async with AsyncOpenAI(
        base_url=served.base_url, api_key=served.key, max_retries=0, timeout=0.3
    ) as client:
        with pytest.raises(openai.APITimeoutError):
            await client.chat.completions.create(
                model=SERVED, messages=HELLO, max_tokens=3000, extra_body={"ignore_eos": True}
            )
    await until(lambda: not any(served.gateway.leftovers().values()))
    await until(lambda: not any(replica.live_calls for replica in served.replicas))
