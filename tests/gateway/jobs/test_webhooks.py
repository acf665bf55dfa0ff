"""Who is told of an end, how it is signed, and what happens when nobody listens."""

import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import openai
import pytest
from aiohttp import web
from redis.asyncio import Redis

from backends.clock import SystemClock
from gateway.jobs.model import JobError, JobKind, NewJob, Offer
from gateway.jobs.store import JobStore
from gateway.settings_jobs import WebhookSettings
from gateway.tasks import Background
from gateway.webhooks import Webhooks
from tests.gateways import until

SECRET = "whsec_" + base64.b64encode(b"a secret of some length").decode()


@dataclass
class Listener:
    """Somebody who is told, and answers with the statuses it was given, then with 200."""

    url: str = ""
    statuses: list[int] = field(default_factory=list)
    seen: list[tuple[dict[str, str], bytes]] = field(default_factory=list)


@pytest.fixture
async def listener() -> AsyncIterator[Listener]:
    found = Listener()

    async def take(request: web.Request) -> web.Response:
        found.seen.append((dict(request.headers), await request.read()))
        return web.Response(status=found.statuses.pop(0) if found.statuses else 200)

    app = web.Application()
    app.router.add_post("/", take)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    found.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield found
    await runner.cleanup()


@asynccontextmanager
async def telling(redis: Redis, url: str, **more: Any) -> AsyncIterator[JobStore]:
    """Deliver webhooks to an address while the block runs."""
    settings = WebhookSettings.model_validate(
        {
            "endpoints": [{"url": url, "secret": SECRET, **more.pop("endpoint", {})}],
            "allow_private": True,
            **more,
        }
    )
    jobs = JobStore(redis)
    async with Background() as background:
        hooks = Webhooks(redis, jobs, settings, SystemClock(), "me")
        background.start(hooks.run(), "webhooks")
        yield jobs


async def end_one(jobs: JobStore, job_id: str, tenant: str = "a") -> None:
    """Make a job and end it."""
    now = SystemClock().now()
    new = NewJob(
        id=job_id,
        kind=JobKind.VIDEO,
        tenant=tenant,
        pool="m",
        class_name="server",
        rank=1,
        payload={"order": {}},
        units=1.0,
        deadline=now + 100,
        ttl_s=100,
    )
    await jobs.submit(new, now=now)
    await jobs.cancel(job_id, now=now)


async def test_an_end_is_told_in_a_way_that_the_sdk_accepts(
    redis: Redis, listener: Listener
) -> None:
    async with telling(redis, listener.url) as jobs:
        await end_one(jobs, "video_1")
        await until(lambda: listener.seen)
    (headers, body), *more = listener.seen
    assert not more
    event = json.loads(body)
    assert (event["type"], event["data"]) == ("video.failed", {"id": "video_1"})
    client = openai.OpenAI(api_key="x", webhook_secret=SECRET)
    client.webhooks.verify_signature(body, headers)
    with pytest.raises(openai.InvalidWebhookSignatureError):
        client.webhooks.verify_signature(body + b" ", headers)


@pytest.mark.parametrize("state", ["completed", "expired", "failed", "cancelled"])
async def test_the_end_of_a_batch_is_one_of_the_events_that_the_sdk_knows(
    redis: Redis, listener: Listener, state: str
) -> None:
    async with telling(redis, listener.url) as jobs:
        now = SystemClock().now()
        await jobs.submit(a_batch("batch_1", now), now=now)
        if state == "cancelled":
            await jobs.cancel("batch_1", now=now)
        else:
            offers = [Offer("@batch", ("offline",), None)]
            claim = await jobs.claim("me", offers, nonce="n", now=now)
            assert claim is not None
            if state == "failed":
                await jobs.fail(claim, JobError("invalid_batch", "not valid"), now=now)
            else:
                await jobs.complete(claim, {"state": state}, now=now)
        await until(lambda: listener.seen)
    ((headers, body),) = listener.seen
    client = openai.OpenAI(api_key="x", webhook_secret=SECRET)
    event: Any = client.webhooks.unwrap(body, headers)
    assert (event.type, event.data.id) == (f"batch.{state}", "batch_1")


def a_batch(job_id: str, now: float) -> NewJob:
    """Give a batch that nobody has looked at."""
    return NewJob(
        id=job_id,
        kind=JobKind.BATCH,
        tenant="a",
        pool="@batch",
        class_name="offline",
        rank=3,
        payload={
            "input_file_id": "file-1",
            "endpoint": "/v1/chat/completions",
            "completion_window": "24h",
        },
        units=0.0,
        deadline=now + 100,
        ttl_s=100,
    )


async def test_what_is_not_taken_comes_again_with_the_same_id(
    redis: Redis, listener: Listener
) -> None:
    listener.statuses = [500]
    async with telling(redis, listener.url) as jobs:
        await end_one(jobs, "video_1")
        await until(lambda: len(listener.seen) == 2)
    ids = {headers["webhook-id"] for headers, _ in listener.seen}
    assert len(ids) == 1


async def test_only_the_tenant_and_the_events_that_are_wanted_are_told(
    redis: Redis, listener: Listener
) -> None:
    wanted = {"endpoint": {"tenant": "a", "events": ["video.failed"]}}
    async with telling(redis, listener.url, **wanted) as jobs:
        await end_one(jobs, "video_1", tenant="b")
        await end_one(jobs, "video_2", tenant="a")
        await until(lambda: listener.seen)
    assert [json.loads(body)["data"]["id"] for _, body in listener.seen] == ["video_2"]


async def test_private_addresses_are_never_told_unless_allowed(
    redis: Redis, listener: Listener
) -> None:
    for url in (listener.url, listener.url.replace("127.0.0.1", "localhost")):
        more = {"allow_private": False, "attempts": 1}
        async with telling(redis, url, **more) as jobs:
            await end_one(jobs, f"video_{len(url)}")
            await until(lambda: True)
            await eventually_empty(redis)
    assert listener.seen == []


async def eventually_empty(redis: Redis) -> None:
    """Wait until nothing is left to be sent, after something was."""
    from tests.waiting import eventually

    async def given_up() -> bool:
        found = [key async for key in redis.scan_iter("sluice:webhook:*")]
        tries = [await redis.hget(key, "tries") for key in found]
        return bool(tries) and all(tries) and not await redis.zcard("sluice:jobs:webhooks")

    await eventually(given_up)


async def test_an_end_before_anybody_listened_is_told_later(
    redis: Redis, listener: Listener, tmp_path: Path
) -> None:
    await end_one(JobStore(redis), "video_1")
    async with telling(redis, listener.url):
        await until(lambda: listener.seen)
    async with telling(redis, listener.url) as jobs:
        await end_one(jobs, "video_2")
        await until(lambda: len(listener.seen) == 2)
