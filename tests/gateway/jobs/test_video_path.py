"""A video from the client's call to a file on its disk."""

import io
from collections.abc import AsyncIterator
from pathlib import Path

import av
import openai
import pytest

from tests.workers import VIDEO_MODEL, VideoStack, video_stack

pytestmark = pytest.mark.filterwarnings("ignore:The Sora API:DeprecationWarning")


@pytest.fixture
async def stack(redis_url: str, tmp_path: Path) -> AsyncIterator[VideoStack]:
    async with video_stack(redis_url, tmp_path) as found:
        yield found


async def test_a_client_creates_polls_and_downloads_a_video(stack: VideoStack) -> None:
    async with openai.AsyncOpenAI(base_url=stack.base_url, api_key="x") as client:
        video = await client.videos.create_and_poll(
            model=VIDEO_MODEL,
            prompt="a cat walks on the grass",
            size="64x64",  # type: ignore[arg-type]
            seconds="1",  # type: ignore[arg-type]
            poll_interval_ms=50,
        )
        assert video.status == "completed", video
        assert video.progress == 100
        content = await client.videos.download_content(video.id)
        data = await content.aread()
    with av.open(io.BytesIO(data), "r") as container:
        stream = container.streams.video[0]
        assert (stream.width, stream.height) == (64, 64)
        assert len([*container.decode(stream)]) == 17
    (body,) = stack.replicas[0].bodies
    assert body == {
        **{"model": VIDEO_MODEL, "prompt": "a cat walks on the grass", "size": "64x64"},
        **{"num_frames": 17, "fps": 16, "num_inference_steps": 4, "guidance_scale": 4.0},
        "seed": body["seed"],
    }
