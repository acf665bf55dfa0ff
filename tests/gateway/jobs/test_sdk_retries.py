"""An SDK repeats a POST whose answer was lost; no second job comes of it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import openai
import pytest

from tests.workers import VIDEO_MODEL, video_stack

pytestmark = pytest.mark.filterwarnings("ignore:The Sora API:DeprecationWarning")


class LosesAnswers:
    """Passes requests on; while `losing`, waits for the answer and hangs up instead of telling it.

    Each connection carries one request, so that what is lost is one answer.
    """

    def __init__(self, host: str, port: int) -> None:
        self.losing = 0
        self.lost = 0
        self._host, self._port = host, port

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        there_reader, there = await asyncio.open_connection(self._host, self._port)
        asking = asyncio.create_task(_copy(reader, there))
        try:
            first = await there_reader.read(65536)  # the server has done it by then
            if self.losing and first:
                self.losing -= 1
                self.lost += 1
                return
            writer.write(first)
            await _copy(there_reader, writer)
        finally:
            asking.cancel()
            for each in (writer, there):
                each.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()


@asynccontextmanager
async def between(url: str) -> AsyncIterator[tuple[LosesAnswers, str]]:
    """Stand between a client and a server; give the way to it."""
    where = urlsplit(url)
    loses = LosesAnswers(str(where.hostname), int(where.port or 80))
    server = await asyncio.start_server(loses.serve, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        yield loses, f"http://127.0.0.1:{port}{where.path}"


@pytest.mark.parametrize("lost", [1, 2])
async def test_an_sdk_whose_answers_are_lost_makes_one_video_and_one_batch(
    redis_url: str, tmp_path: Path, lost: int
) -> None:
    async with (
        video_stack(redis_url, tmp_path, work=False) as stack,
        between(stack.base_url) as (loses, url),
        openai.AsyncOpenAI(
            base_url=url, api_key="x", max_retries=lost, default_headers={"connection": "close"}
        ) as client,
    ):
        file = await client.files.create(file=("rows.jsonl", b"{}"), purpose="batch")
        loses.losing = lost
        video = await client.videos.create(model=VIDEO_MODEL, prompt="a cat")
        assert loses.lost == lost
        assert [each.id for each in (await client.videos.list()).data] == [video.id]

        loses.losing = lost
        batch = await client.batches.create(
            input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
        )
        assert loses.lost == 2 * lost
        assert [each.id for each in (await client.batches.list()).data] == [batch.id]

        # What is asked again of one's own accord is new.
        again = await client.videos.create(model=VIDEO_MODEL, prompt="a cat")
        assert again.id != video.id
