"""A batch from the client's file to the files that it gets back."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import openai
import pytest

from backends.simulated.server import serve
from backends.simulated.settings import SimulatedSettings
from gateway.jobs.model import Claim
from gateway.jobs.store import JobStore
from gateway.worker_main import worker_for
from tests.gateways import RunningGateway, running_gateway
from tests.workers import VIDEO_MODEL, running_worker, video_stack

MODEL = "llama2-70b"
ENDED = {"completed", "failed", "expired", "cancelled"}


@pytest.fixture
async def gateway(redis_url: str, tmp_path: Path) -> AsyncIterator[RunningGateway]:
    simulated = SimulatedSettings(model=MODEL, throughput_scale=8.0, replicas=2)
    async with (
        serve(simulated) as urls,
        running_gateway(redis_url, {MODEL: urls}, data_dir=tmp_path) as found,
    ):
        yield found


@pytest.fixture
async def client(gateway: RunningGateway) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key="x") as found:
        yield found


def rows(count: int, **body: Any) -> list[dict[str, Any]]:
    """Chat rows that the simulated engine answers."""
    return [
        {
            "custom_id": f"row-{number}",
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {
                "model": MODEL,
                "messages": [{"role": "user", "content": f"question {number}"}],
                "max_tokens": 4,
                **body,
            },
        }
        for number in range(count)
    ]


async def begin(client: openai.AsyncOpenAI, lines: list[Any], **more: Any) -> Any:
    """Upload lines and make a batch of them."""
    text = "\n".join(each if isinstance(each, str) else json.dumps(each) for each in lines)
    file = await client.files.create(file=("rows.jsonl", text.encode()), purpose="batch")
    return await client.batches.create(
        input_file_id=file.id,
        endpoint="/v1/chat/completions",
        completion_window="24h",
        **more,
    )


async def ended(client: openai.AsyncOpenAI, batch_id: str, within_s: float = 40.0) -> Any:
    """Wait for a batch's end."""
    async with asyncio.timeout(within_s):
        while (batch := await client.batches.retrieve(batch_id)).status not in ENDED:
            await asyncio.sleep(0.05)
    return batch


async def lines_of(client: openai.AsyncOpenAI, file_id: str) -> list[dict[str, Any]]:
    """Read a file of JSON lines."""
    content = await client.files.content(file_id)
    return [json.loads(line) for line in content.text.splitlines()]


async def test_every_row_of_a_batch_is_answered_once(
    gateway: RunningGateway, client: openai.AsyncOpenAI
) -> None:
    async with running_worker(gateway):
        batch = await begin(client, rows(200), metadata={"a": "b"})
        assert batch.status in {"validating", "in_progress"}
        batch = await ended(client, batch.id)
    assert batch.status == "completed", batch
    assert (batch.request_counts.total, batch.request_counts.completed) == (200, 200)
    assert batch.error_file_id is None
    assert batch.metadata == {"a": "b"}
    lines = await lines_of(client, batch.output_file_id)
    assert sorted(line["custom_id"] for line in lines) == sorted(f"row-{i}" for i in range(200))
    assert all(line["response"]["status_code"] == 200 for line in lines)
    assert all(line["response"]["body"]["choices"] for line in lines)
    assert batch.usage.output_tokens == 800


async def test_a_file_with_faults_fails_as_a_whole_and_names_each(
    gateway: RunningGateway, client: openai.AsyncOpenAI
) -> None:
    good = rows(1)[0]
    lines: list[Any] = [
        good,
        "{",
        {**good, "custom_id": ""},
        {**good, "custom_id": "a", "url": "/v1/embeddings"},
        {**good, "custom_id": "b", "body": {"model": MODEL}},
        {**good, "custom_id": "c", "body": {**good["body"], "stream": True}},
        {**good, "custom_id": "d", "body": {**good["body"], "model": "nope"}},
        good,
    ]
    async with running_worker(gateway):
        batch = await ended(client, (await begin(client, lines)).id)
    assert batch.status == "failed"
    found = [(each.line, each.code, each.param) for each in batch.errors.data]
    assert found == [
        (2, "invalid_json_line", None),
        (3, "missing_required_parameter", "custom_id"),
        (4, "invalid_url", "url"),
        (5, "missing_required_parameter", "body.messages"),
        (6, "streaming_unsupported", "body.stream"),
        (7, "model_not_found", "body.model"),
        (8, "duplicate_custom_id", "custom_id"),
    ]
    assert batch.request_counts.total == 8
    assert batch.output_file_id is None


async def test_rows_that_fail_are_in_the_error_file(
    gateway: RunningGateway, client: openai.AsyncOpenAI
) -> None:
    bad = rows(1, temperature=-5)[0]
    async with running_worker(gateway):
        batch = await begin(client, [*rows(3), {**bad, "custom_id": "bad"}])
        batch = await ended(client, batch.id)
    assert batch.status == "completed"
    assert (batch.request_counts.completed, batch.request_counts.failed) == (3, 1)
    (line,) = await lines_of(client, batch.error_file_id)
    assert line["custom_id"] == "bad"
    assert line["response"]["status_code"] == 400
    assert line["response"]["body"]["error"]["message"]


@pytest.mark.parametrize("file_id", ["file-nope", "../etc", "f" * 500])
async def test_an_unknown_file_is_refused_at_once(client: openai.AsyncOpenAI, file_id: str) -> None:
    with pytest.raises(openai.NotFoundError) as refused:
        await client.batches.create(
            input_file_id=file_id, endpoint="/v1/chat/completions", completion_window="24h"
        )
    assert refused.value.param == "input_file_id"
    assert not (await client.batches.list()).data


async def test_a_file_of_another_purpose_is_refused_at_once(client: openai.AsyncOpenAI) -> None:
    file = await client.files.create(file=("rows.jsonl", b"{}"), purpose="user_data")
    with pytest.raises(openai.BadRequestError) as refused:
        await client.batches.create(
            input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
        )
    assert (refused.value.param, refused.value.code) == ("input_file_id", "invalid_value")
    assert not (await client.batches.list()).data


async def test_a_batch_whose_file_goes_before_it_is_looked_at_fails(
    gateway: RunningGateway, client: openai.AsyncOpenAI
) -> None:
    batch = await begin(client, rows(1))
    await client.files.delete(batch.input_file_id)
    async with running_worker(gateway):
        found = await ended(client, batch.id)
    assert found.status == "failed"
    assert (found.errors.data[0].code, found.errors.data[0].param) == ("invalid_request", "file_id")


async def test_wrong_words_are_refused_at_once(client: openai.AsyncOpenAI) -> None:
    for wrong in ({"endpoint": "/v1/nope"}, {"completion_window": "soon"}):
        asked: dict[str, Any] = {
            "input_file_id": "file-x",
            "endpoint": "/v1/chat/completions",
            "completion_window": "24h",
            **wrong,
        }
        with pytest.raises(openai.BadRequestError) as refused:
            await client.batches.create(**asked)
        assert refused.value.param == next(iter(wrong))
        assert refused.value.code == "invalid_value"


async def test_a_batch_that_nobody_works_on_yet_can_be_cancelled(
    gateway: RunningGateway, client: openai.AsyncOpenAI
) -> None:
    batch = await begin(client, rows(3))
    assert (await client.batches.cancel(batch.id)).status == "cancelling"
    async with running_worker(gateway):
        found = await ended(client, batch.id)
    assert found.status == "cancelled"
    assert found.request_counts.total == 3
    lines = await lines_of(client, found.error_file_id)
    assert {line["error"]["code"] for line in lines} == {"batch_cancelled"}
    assert (await client.batches.cancel(batch.id)).status == "cancelled"


async def test_what_is_done_of_a_cancelled_batch_can_be_read(
    gateway: RunningGateway, client: openai.AsyncOpenAI
) -> None:
    lines = [*rows(5), *rows(40, max_tokens=1000, ignore_eos=True)[5:]]
    async with running_worker(gateway):
        batch = await begin(client, lines)
        async with asyncio.timeout(30):
            while (await client.batches.retrieve(batch.id)).request_counts.completed < 5:  # type: ignore[union-attr]
                await asyncio.sleep(0.02)
        await client.batches.cancel(batch.id)
        found = await ended(client, batch.id)
    assert found.status == "cancelled"
    done = await lines_of(client, found.output_file_id)
    unrun = await lines_of(client, found.error_file_id)
    assert len(done) >= 5
    assert len(done) + len(unrun) == 40
    assert gateway.leftovers()["slots"] == 0


async def test_a_second_worker_goes_on_where_the_first_left(
    gateway: RunningGateway, client: openai.AsyncOpenAI
) -> None:
    lines = rows(60, max_tokens=60, ignore_eos=True)
    batch = await begin(client, lines)
    async with running_worker(gateway):
        async with asyncio.timeout(30):
            while (await client.batches.retrieve(batch.id)).request_counts.completed < 10:  # type: ignore[union-attr]
                await asyncio.sleep(0.02)
    before = (await client.batches.retrieve(batch.id)).request_counts
    async with running_worker(gateway):
        found = await ended(client, batch.id)
    assert before is not None
    assert before.completed >= 10
    assert found.request_counts.completed == 60
    ids = [line["custom_id"] for line in await lines_of(client, found.output_file_id)]
    assert sorted(ids) == sorted({line["custom_id"] for line in lines})


async def test_the_same_key_gives_the_same_batch(client: openai.AsyncOpenAI) -> None:
    file = await client.files.create(file=("rows.jsonl", b"{}"), purpose="batch")
    asked: dict[str, Any] = {
        "input_file_id": file.id,
        "endpoint": "/v1/chat/completions",
        "completion_window": "24h",
    }
    key = {"idempotency_key": "k1"}
    first = await client.batches.create(**asked, extra_body=key)
    again = await client.batches.create(**asked, extra_body=key)
    assert first.id == again.id
    await client.files.delete(file.id)
    assert (await client.batches.create(**asked, extra_body=key)).id == first.id
    with pytest.raises(openai.ConflictError):
        await client.batches.create(**{**asked, "completion_window": "1h"}, extra_body=key)


async def test_rows_wait_for_room_within_their_tenants_limits(
    redis_url: str, tmp_path: Path
) -> None:
    simulated = SimulatedSettings(model=MODEL, throughput_scale=8.0)
    tenants = {"default": {"concurrency": 2}}
    async with (
        serve(simulated) as urls,
        running_gateway(redis_url, {MODEL: urls}, data_dir=tmp_path, tenants=tenants) as gateway,
        openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key="x") as client,
        running_worker(gateway),
    ):
        batch = await begin(client, rows(6))
        batch = await ended(client, batch.id)
        assert (batch.request_counts.completed, batch.request_counts.failed) == (6, 0)


async def test_a_row_larger_than_its_tenants_limit_fails_at_once(
    redis_url: str, tmp_path: Path
) -> None:
    simulated = SimulatedSettings(model=MODEL, throughput_scale=8.0)
    tenants = {"default": {"tokens_per_min": 5}}
    async with (
        serve(simulated) as urls,
        running_gateway(redis_url, {MODEL: urls}, data_dir=tmp_path, tenants=tenants) as gateway,
        openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key="x") as client,
        running_worker(gateway),
    ):
        batch = await begin(client, rows(2))
        batch = await ended(client, batch.id)
        assert (batch.request_counts.completed, batch.request_counts.failed) == (0, 2)
        lines = await lines_of(client, batch.error_file_id)
        assert {line["response"]["status_code"] for line in lines} == {429}


async def test_a_worker_that_is_told_to_leave_gives_back_what_it_has_just_claimed(
    gateway: RunningGateway, client: openai.AsyncOpenAI
) -> None:
    batch = await begin(client, rows(3))
    stop = asyncio.Event()

    class Late(JobStore):
        """Jobs whose claim arrives when the worker has been told to leave."""

        async def claim(self, *asked: Any, **more: Any) -> Claim | None:
            stop.set()
            return await super().claim(*asked, **more)

    async with worker_for(gateway.services) as worker:
        worker.jobs = Late(gateway.services.redis)
        await worker.run(stop)
    (waiting,) = await worker.jobs.live()
    assert (waiting.id, waiting.worker, waiting.fence) == (batch.id, None, 2)


ROWS_OF = {
    "/v1/completions": {"model": MODEL, "prompt": "hi", "max_tokens": 4},
    "/v1/embeddings": {"model": MODEL, "input": "hi"},
    "/v1/responses": {"model": MODEL, "input": "hi", "max_output_tokens": 4},
    "/v1/videos": {"model": VIDEO_MODEL, "prompt": "a cat", "size": "64x64", "num_frames": 5},
}
SHOWN_AS = {
    "/v1/completions": "text_completion",
    "/v1/embeddings": "list",
    "/v1/responses": "response",
    "/v1/videos": "video",
}


@pytest.mark.filterwarnings("ignore:The Sora API:DeprecationWarning")
@pytest.mark.parametrize("endpoint", ROWS_OF)
async def test_every_endpoint_s_rows_are_answered_as_it_would(
    redis_url: str, tmp_path: Path, endpoint: str
) -> None:
    lines = [
        {"custom_id": f"row-{n}", "method": "POST", "url": endpoint, "body": ROWS_OF[endpoint]}
        for n in range(3)
    ]
    simulated = SimulatedSettings(model=MODEL, throughput_scale=8.0)
    async with (
        serve(simulated) as urls,
        video_stack(redis_url, tmp_path, models={MODEL: urls}) as stack,
        openai.AsyncOpenAI(base_url=stack.base_url, api_key="x") as client,
    ):
        text = "\n".join(map(json.dumps, lines)).encode()
        file = await client.files.create(file=("rows.jsonl", text), purpose="batch")
        batch: Any = await client.batches.create(
            input_file_id=file.id,
            endpoint=cast(Any, endpoint),
            completion_window="24h",
        )
        batch = await ended(client, batch.id)
        assert (batch.status, batch.request_counts.completed) == ("completed", 3), batch
        answers = await lines_of(client, batch.output_file_id)
        assert {line["response"]["body"]["object"] for line in answers} == {SHOWN_AS[endpoint]}
        # A row's video is a job of its own, and there is one for each row.
        videos = (await client.videos.list()).data
        assert len({each.id for each in videos}) == (3 if endpoint == "/v1/videos" else 0)


async def test_a_batch_whose_window_is_over_gives_what_is_done_and_names_the_rest(
    gateway: RunningGateway, client: openai.AsyncOpenAI
) -> None:
    batch = await begin(client, rows(3))
    jobs, now = gateway.services.jobs, gateway.services.clock.now()
    key = f"sluice:job:{batch.id}"
    await jobs.redis.hset(key, "deadline", f"{now - 1:.6f}")
    await jobs.redis.zadd("sluice:jobs:deadlines", {batch.id: now - 1})
    await jobs.tick(now=now)
    async with running_worker(gateway):
        found = await ended(client, batch.id)
    assert (found.status, found.expired_at is not None) == ("expired", True)
    assert (found.request_counts.total, found.request_counts.completed) == (3, 0)
    lines = await lines_of(client, found.error_file_id)
    assert {line["error"]["code"] for line in lines} == {"batch_expired"}
    assert {line["custom_id"] for line in lines} == {"row-0", "row-1", "row-2"}
