"""A video survives the end of the worker and of the store that it depends on."""

import io
from collections.abc import Iterator
from pathlib import Path

import av
import pytest

from tests.system.stacks import VIDEO_MODEL, Deployment, deployments

pytestmark = [
    pytest.mark.system,
    pytest.mark.timeout(240),
    pytest.mark.filterwarnings("ignore:The Sora API:DeprecationWarning"),
]


@pytest.fixture
def deployment(tmp_path: Path) -> Iterator[Deployment]:
    yield from deployments(tmp_path, "--throughput-scale", "4")


def test_a_video_survives_kill_9_of_the_worker_and_of_the_store(deployment: Deployment) -> None:
    deployment.until_videos()
    client = deployment.client
    video = client.videos.create(model=VIDEO_MODEL, prompt="a cat", size="832x480", seconds="4")  # type: ignore[arg-type]
    while client.videos.retrieve(video.id).status == "queued":
        pass
    deployment.kill("worker")
    deployment.kill_store()
    found = client.videos.poll(video.id, poll_interval_ms=500)
    assert found.status == "completed", found
    data = client.videos.download_content(video.id).read()
    with av.open(io.BytesIO(data), "r") as container:
        stream = container.streams.video[0]
        assert (stream.width, stream.height, stream.frames) == (832, 480, 65)
    assert [each.id for each in client.videos.list()] == [video.id]
