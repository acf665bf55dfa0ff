"""Files of a tenant: what is kept of them, in which order they come, when they go; batches, too."""

from collections.abc import AsyncIterator
from pathlib import Path

import openai
import pytest

from tests.gateways import RunningGateway, running_gateway


@pytest.fixture
async def gateway(redis_url: str, tmp_path: Path) -> AsyncIterator[RunningGateway]:
    async with running_gateway(redis_url, {}, data_dir=tmp_path) as found:
        yield found


@pytest.fixture
async def client(gateway: RunningGateway) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key="x") as found:
        yield found


async def test_a_file_is_given_back_as_it_came_and_is_gone_when_deleted(
    client: openai.AsyncOpenAI, tmp_path: Path
) -> None:
    data = b'{"a": 1}\n' * 3
    file = await client.files.create(file=("rows.jsonl", data), purpose="batch")
    assert (file.bytes, file.filename, file.purpose) == (len(data), "rows.jsonl", "batch")
    assert (await client.files.retrieve(file.id)) == file
    assert (await client.files.content(file.id)).content == data
    assert (await client.files.delete(file.id)).deleted
    with pytest.raises(openai.NotFoundError):
        await client.files.content(file.id)
    assert not [each for each in (tmp_path / "artifacts").rglob("*") if each.is_file()]


async def test_files_are_paged_in_both_orders_and_by_purpose(client: openai.AsyncOpenAI) -> None:
    made = []
    for number in range(5):
        purpose = "batch" if number % 2 == 0 else "user_data"
        file = await client.files.create(file=(f"{number}", b"x"), purpose=purpose)  # type: ignore[arg-type]
        made.append(file.id)
    # The client goes from page to page by itself.
    assert [each.id async for each in client.files.list(limit=2)] == made[::-1]
    assert [each.id async for each in client.files.list(limit=2, order="asc")] == made
    found = [each.id async for each in client.files.list(limit=1, purpose="batch", order="asc")]
    assert found == made[::2]
    first = await client.files.list(limit=2, order="asc")
    assert (first.has_more, [each.id for each in first.data]) == (True, made[:2])


async def test_a_file_goes_when_its_time_is_over(
    gateway: RunningGateway, client: openai.AsyncOpenAI
) -> None:
    file = await client.files.create(
        file=("rows.jsonl", b"{}"),
        purpose="batch",
        expires_after={"anchor": "created_at", "seconds": 3600},
    )
    assert file.expires_at == file.created_at + 3600
    files, now = gateway.services.files, gateway.services.clock.now()
    assert await files.remove_expired(now=now + 3590) == 0
    assert await files.remove_expired(now=now + 3601) == 1
    with pytest.raises(openai.NotFoundError):
        await client.files.retrieve(file.id)


async def test_wrong_words_about_a_file_are_named(client: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        await client.files.create(file=("a", b"x"), purpose="banana")  # type: ignore[arg-type]
    assert refused.value.param == "purpose"
    with pytest.raises(openai.BadRequestError) as refused:
        await client.files.create(
            file=("a", b"x"),
            purpose="batch",
            expires_after={"anchor": "created_at", "seconds": 1},
        )
    assert refused.value.param == "expires_after"


async def test_batches_are_paged_newest_first(client: openai.AsyncOpenAI) -> None:
    file = await client.files.create(file=("rows.jsonl", b"{}"), purpose="batch")
    made = [
        (
            await client.batches.create(
                input_file_id=file.id,
                endpoint="/v1/chat/completions",
                completion_window="24h",
                metadata={"number": str(number)},
            )
        ).id
        for number in range(5)
    ]
    assert [each.id async for each in client.batches.list(limit=2)] == made[::-1]
    page = await client.batches.list(after=made[2], limit=1)
    assert (page.has_more, [each.id for each in page.data]) == (True, [made[1]])
