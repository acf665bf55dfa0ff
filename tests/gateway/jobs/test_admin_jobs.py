"""What an operator sees of jobs and does about them, by the command and by the metrics."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import uvicorn
from prometheus_client.parser import text_string_to_metric_families
from structlog.testing import capture_logs

from backends.simulated.diffusion_settings import DiffusionFaults, DiffusionSettings
from gateway.cli.failure import CommandFailed
from gateway.cli.jobs import main
from gateway.reload import Reloader
from gateway.server import admin_of
from gateway.services import Services
from tests.gateway.jobs.test_videos_api import Caller
from tests.gateways import until
from tests.workers import VIDEO_MODEL, VideoStack, running_worker, video_stack

KEY = "the-admin-key"


@dataclass(frozen=True)
class Command:
    """`sluice jobs`, told where the admin API is."""

    where: tuple[str, ...]
    read: Callable[[], str]

    async def __call__(self, *words: str) -> tuple[int, str]:
        """Run it; give the exit status and what it printed."""
        status = await asyncio.to_thread(main, [*words, *self.where])
        return status, self.read()

    async def json(self, *words: str) -> Any:
        """Run it for JSON."""
        status, printed = await self(*words, "--json")
        assert status == 0
        return json.loads(printed)


@pytest.fixture
async def stack(redis_url: str, tmp_path: Path) -> AsyncIterator[VideoStack]:
    broken = DiffusionSettings(
        model=VIDEO_MODEL, fixed_s=0.0, faults=DiffusionFaults(fail_rate=1.0)
    )
    async with video_stack(
        redis_url, tmp_path, diffusion=broken, work=False, admin_key=KEY
    ) as found:
        yield found


@pytest.fixture
async def caller(stack: VideoStack) -> AsyncIterator[Caller]:
    async with aiohttp.ClientSession() as session:
        yield Caller(stack.base_url, session)


@pytest.fixture
async def jobs(
    stack: VideoStack, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> AsyncIterator[Command]:
    key_file = tmp_path / "admin.key"
    key_file.write_text(KEY)
    # The gateway's and the worker's lines go where the command prints: they are in this process.
    with capture_logs():
        async with _admin_api(stack.gateway.services) as url:
            where = ("--admin-url", url, "--admin-key-file", str(key_file))
            yield Command(where, lambda: capsys.readouterr().out)


@asynccontextmanager
async def _admin_api(services: Services) -> AsyncIterator[str]:
    app = admin_of(services, Reloader(services, None))
    config = uvicorn.Config(app, loop="none", lifespan="off", log_config=None, port=0)
    server = uvicorn.Server(config)
    task = asyncio.create_task(server._serve())
    try:
        await until(lambda: server.started)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        await task


async def test_jobs_that_wait_are_listed_shown_and_cancelled(jobs: Command, caller: Caller) -> None:
    first, second = await caller.create(), await caller.create()
    status, printed = await jobs("list")
    assert status == 0
    assert first["id"] in printed
    assert second["id"] in printed
    found = await jobs.json("list")
    assert [each["id"] for each in found["data"]] == [first["id"], second["id"]]
    assert found["pools"][VIDEO_MODEL]["waiting"] == 2
    shown = await jobs.json("show", first["id"])
    assert (shown["status"], shown["attempts"], shown["reasons"]) == ("queued", 0, [])
    assert "a cat" not in json.dumps(shown)  # a prompt is its tenant's
    assert (await jobs("cancel", first["id"]))[0] == 0
    (ended,) = (await jobs.json("list", "--state", "ended"))["data"]
    assert (ended["id"], ended["error"]["code"]) == (first["id"], "cancelled")
    assert (await caller.ended(first["id"]))["status"] == "failed"


async def test_a_job_that_failed_too_often_is_dead_and_can_be_done_after_all(
    stack: VideoStack, jobs: Command, caller: Caller
) -> None:
    video = await caller.create()
    async with running_worker(stack.gateway):
        await caller.ended(video["id"])
        (dead,) = (await jobs.json("list", "--state", "dead"))["data"]
        assert (dead["id"], dead["error"]["code"]) == (video["id"], "generation_failed")
        shown = await jobs.json("show", video["id"])
        assert (shown["attempts"], len(shown["reasons"])) == (3, 3)
        stack.replicas[0].settle(faults=DiffusionFaults())
        assert (await jobs("requeue", video["id"]))[0] == 0
        assert (await caller.ended(video["id"]))["status"] == "completed"
    with pytest.raises(CommandFailed, match="Only a failed job"):
        await jobs("requeue", video["id"])
    with pytest.raises(CommandFailed, match="No job with the id 'video_nope'"):
        await jobs("show", "video_nope")


async def test_metrics_tell_of_depth_age_time_retries_and_dead_letters(
    stack: VideoStack, caller: Caller
) -> None:
    waiting = await caller.create()
    assert await _metrics(stack) >= {("waiting", 1.0), ("live", 1.0), ("made_total", 1.0)}
    await caller.ask("POST", f"/videos/{waiting['id']}/cancel")
    dead = await caller.create()
    async with running_worker(stack.gateway):
        await caller.ended(dead["id"])
        stack.replicas[0].settle(faults=DiffusionFaults())
        await caller.ended((await caller.create())["id"])
    told = await _metrics(stack)
    assert told >= {("waiting", 0.0), ("retries_total", 2.0), ("dead_total", 1.0)}
    assert told >= {("made_total", 3.0), ("completed_total", 1.0), ("failed_total", 2.0)}
    seconds = {name for name, value in told if value > 0}
    assert {"wait_seconds_total", "service_seconds_total"} <= seconds


async def _metrics(stack: VideoStack) -> set[tuple[str, float]]:
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"{stack.gateway.url}/metrics") as answer,
    ):
        text = await answer.text()
    return {
        (sample.name.removeprefix("sluice_jobs_"), sample.value)
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name.startswith("sluice_jobs_")
    }
