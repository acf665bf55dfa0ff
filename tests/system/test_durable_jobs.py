"""A real client, real engines: videos and a batch survive the end of worker and store.

Minutes on a CPU, so only on request, with SLUICE_TEST_REAL_JOBS=1 in the environment.
"""

import io
import json
import os
import time
from pathlib import Path
from typing import Any

import av
import pytest

from backends.embedded.diffusion import TINY_WAN
from backends.embedded.environment import SMOLLM2
from tests.system.stacks import Deployment
from tests.system.test_up import Starter, poll, stop

ROWS = 200
LOAD_WITHIN_S = 300.0  # an engine's imports alone take a minute of a busy CPU
ENDED = {"completed", "failed", "expired", "cancelled"}

pytestmark = [
    pytest.mark.system,
    pytest.mark.sglang,
    pytest.mark.timeout(1200),
    pytest.mark.filterwarnings("ignore:The Sora API:DeprecationWarning"),
    pytest.mark.skipif(
        not os.environ.get("SLUICE_TEST_REAL_JOBS"), reason="minutes; SLUICE_TEST_REAL_JOBS=1"
    ),
]


def test_a_video_and_a_batch_on_real_engines_survive_kill_9(tmp_path: Path) -> None:
    starter = Starter(tmp_path)
    up = starter("--engine", "sglang")
    told: dict[str, Any] = {}
    try:
        deployment = Deployment(up, up.ready(LOAD_WITHIN_S))
        client: Any = deployment.client  # whose types know the sizes of one other service
        poll(lambda: any(each.id == TINY_WAN for each in client.models.list()), LOAD_WITHIN_S)
        began = time.monotonic()
        first = client.videos.create_and_poll(
            model=TINY_WAN, prompt="a cat", size="64x64", seconds="1", poll_interval_ms=500
        )
        told["first video, s"] = round(time.monotonic() - began, 1)
        told["its size and frames"] = _shape(client.videos.download_content(first.id).read())
        batch = _begin(client)
        second = client.videos.create(
            model=TINY_WAN, prompt="a dog", size="96x64", seconds="2", extra_body={"num_frames": 33}
        )
        began = time.monotonic()
        while not (counts := client.batches.retrieve(batch).request_counts).completed:
            time.sleep(0.1)
        told["rows done at the kill"] = counts.completed if counts else 0
        deployment.kill("worker")
        deployment.kill_store()
        found = client.videos.poll(second.id, poll_interval_ms=500)
        assert found.status == "completed", found
        told["video through both kills"] = _shape(client.videos.download_content(found.id).read())
        while (ended := client.batches.retrieve(batch)).status not in ENDED:
            time.sleep(0.5)
        told["batch, s"] = round(time.monotonic() - began, 1)
        counts = ended.request_counts
        assert counts is not None
        told["rows"] = (counts.total, counts.completed, counts.failed)
        assert (ended.status, counts.completed) == ("completed", ROWS)
        text = client.files.content(ended.output_file_id or "").text
        ids = [json.loads(line)["custom_id"] for line in text.splitlines()]
        assert sorted(ids) == sorted(f"row-{number}" for number in range(ROWS))
        told["rows in the file, each once"] = len(set(ids))
        assert told["its size and frames"][:2] == (64, 64)
        assert told["video through both kills"] == (96, 64, 33)
    finally:
        print(json.dumps(told, indent=1))
        for each in starter.started:
            stop(each)


def _begin(client: Any) -> str:
    """Make a batch of short questions for the small model."""
    rows = [
        {
            "custom_id": f"row-{number}",
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {
                "model": SMOLLM2,
                "messages": [{"role": "user", "content": f"Say {number}."}],
                "max_tokens": 8,
            },
        }
        for number in range(ROWS)
    ]
    text = "\n".join(map(json.dumps, rows)).encode()
    file = client.files.create(file=("rows.jsonl", text), purpose="batch")
    batch = client.batches.create(
        input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
    )
    return str(batch.id)


def _shape(clip: bytes) -> tuple[int, int, int]:
    with av.open(io.BytesIO(clip), "r") as container:
        stream = container.streams.video[0]
        return stream.width, stream.height, sum(1 for _ in container.decode(stream))
