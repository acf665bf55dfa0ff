"""A batch survives the end of the worker and of the store, and runs no finished row again."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.stacks import CHAT_MODEL, Deployment, deployments

pytestmark = [pytest.mark.system, pytest.mark.timeout(240)]

ENDED = {"completed", "failed", "expired", "cancelled"}


@pytest.fixture
def deployment(tmp_path: Path) -> Iterator[Deployment]:
    yield from deployments(tmp_path, "--no-video")


def test_a_batch_survives_kill_9_of_the_worker_and_of_the_store(deployment: Deployment) -> None:
    client = deployment.client
    rows = [
        {
            "custom_id": f"row-{number}",
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {
                "model": CHAT_MODEL,
                "messages": [{"role": "user", "content": f"question {number}"}],
                "max_tokens": 100 + number,
                "ignore_eos": True,
            },
        }
        for number in range(200)
    ]
    text = "\n".join(map(json.dumps, rows)).encode()
    file = client.files.create(file=("rows.jsonl", text), purpose="batch")
    batch = client.batches.create(
        input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
    )
    deadline = time.monotonic() + 120
    while (counts := client.batches.retrieve(batch.id).request_counts) is None or not (
        counts.completed
    ):
        assert time.monotonic() < deadline
    deployment.kill("worker")
    deployment.kill_store()
    while (found := client.batches.retrieve(batch.id)).status not in ENDED:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert found.status == "completed", found
    assert found.request_counts is not None
    assert (found.request_counts.total, found.request_counts.completed) == (200, 200)
    assert found.output_file_id is not None
    lines = client.files.content(found.output_file_id).text.splitlines()
    ids = sorted(json.loads(line)["custom_id"] for line in lines)
    assert ids == sorted(f"row-{number}" for number in range(200))
