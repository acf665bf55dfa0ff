"""The contract of /v1/videos: what is taken, what is refused, what is told."""

import asyncio
import base64
import io
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import av
import pytest

from backends.restarts import obey
from backends.simulated.diffusion_settings import DiffusionSettings
from tests.gateways import until
from tests.waiting import eventually
from tests.workers import VIDEO_MODEL, VideoStack, running_worker, video_stack

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


class Caller:
    """Raw HTTP, as any client could speak it."""

    def __init__(self, base_url: str, session: aiohttp.ClientSession) -> None:
        self._base = base_url
        self._session = session

    async def ask(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> tuple[int, Any, Any]:
        """Send; give status, JSON (bytes where it is none) and headers."""
        more = {"data": body} if isinstance(body, aiohttp.FormData) else {"json": body}
        async with self._session.request(
            method, self._base + path, headers=headers, **(more if body is not None else {})
        ) as answer:
            data = await answer.read()
            if answer.content_type == "application/json":
                return answer.status, await answer.json(), answer.headers
            return answer.status, data, answer.headers

    async def create(self, headers: dict[str, str] | None = None, **more: Any) -> Any:
        """Create a small video; fail where it is refused."""
        body = {"model": VIDEO_MODEL, "prompt": "a cat", "size": "64x64", "num_frames": 5, **more}
        status, video, _ = await self.ask("POST", "/videos", body, headers)
        assert status == 200, video
        return video

    async def ended(self, video_id: str) -> Any:
        """Wait for a video's end."""
        found: dict[str, Any] = {}

        async def look() -> bool:
            found.update((await self.ask("GET", f"/videos/{video_id}"))[1])
            return found["status"] in {"completed", "failed"}

        await eventually(look, within_s=30)
        return found


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as found:
        yield found


@pytest.fixture
async def idle(redis_url: str, tmp_path: Path) -> AsyncIterator[VideoStack]:
    """A gateway and a replica, and nobody who works."""
    async with video_stack(redis_url, tmp_path, work=False) as found:
        yield found


@pytest.fixture
async def stack(redis_url: str, tmp_path: Path) -> AsyncIterator[VideoStack]:
    async with video_stack(redis_url, tmp_path) as found:
        yield found


async def test_a_waiting_video_tells_its_place_and_when_to_ask_again(
    idle: VideoStack, session: aiohttp.ClientSession
) -> None:
    caller = Caller(idle.base_url, session)
    first, second = await caller.create(), await caller.create()
    assert (first["status"], first["progress"]) == ("queued", 0)
    assert (first["queue_position"], second["queue_position"]) == (0, 1)
    status, found, headers = await caller.ask("GET", f"/videos/{second['id']}")
    assert (status, found["queue_position"]) == (200, 1)
    assert int(headers["openai-poll-after-ms"]) >= 500
    assert found["completed_at"] is found["error"] is None


@pytest.mark.parametrize(
    ("wrong", "param"),
    [
        ({"size": "1x1"}, "size"),
        ({"size": "banana"}, "size"),
        ({"seconds": "1000", "num_frames": None}, "seconds"),
        ({"num_frames": 6}, "num_frames"),
        ({"num_frames": 4001}, "num_frames"),
        ({"num_inference_steps": 0}, "num_inference_steps"),
        ({"fps": "many"}, "fps"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": 7}, "prompt"),
        ({"n": 2}, "n"),
        ({"output_path": "/etc/passwd"}, "output_path"),
        ({"input_reference": "http://127.0.0.1/x.png"}, "input_reference"),
        ({"input_reference": "data:text/plain,hello"}, "input_reference"),
        ({"service_tier": "nope"}, "service_tier"),
    ],
)
async def test_a_wrong_value_is_named_with_what_is_allowed(
    idle: VideoStack, session: aiohttp.ClientSession, wrong: dict[str, Any], param: str
) -> None:
    caller = Caller(idle.base_url, session)
    body = {"model": VIDEO_MODEL, "prompt": "a cat", "num_frames": 5, **wrong}
    status, found, _ = await caller.ask("POST", "/videos", body)
    assert status == 400, found
    assert found["error"]["param"] == param
    assert found["error"]["type"] == "invalid_request_error"


async def test_a_model_that_takes_no_image_says_so(
    idle: VideoStack, session: aiohttp.ClientSession
) -> None:
    form = aiohttp.FormData()
    for name, value in {"model": VIDEO_MODEL, "prompt": "a cat"}.items():
        form.add_field(name, value)
    form.add_field("input_reference", PNG, filename="a.png", content_type="image/png")
    status, found, _ = await Caller(idle.base_url, session).ask("POST", "/videos", form)
    assert (status, found["error"]["param"]) == (400, "input_reference")


async def test_an_image_reaches_the_engine_where_the_model_takes_one(
    redis_url: str, tmp_path: Path, session: aiohttp.ClientSession
) -> None:
    async with video_stack(redis_url, tmp_path, video={"takes_reference": True}) as stack:
        caller = Caller(stack.base_url, session)
        url = "data:image/png;base64," + base64.b64encode(PNG).decode()
        video = await caller.create(input_reference={"image_url": url})
        assert (await caller.ended(video["id"]))["status"] == "completed"
    (body,) = stack.replicas[0].bodies
    assert body["input_reference"] == PNG


async def test_the_same_idempotency_key_gives_the_same_video(
    idle: VideoStack, session: aiohttp.ClientSession
) -> None:
    caller = Caller(idle.base_url, session)
    key = {"idempotency-key": "k"}
    first = await caller.create(headers=key)
    again = await caller.create(headers=key)
    assert first["id"] == again["id"]
    body = {"model": VIDEO_MODEL, "prompt": "a dog", "num_frames": 5}
    status, found, headers = await caller.ask("POST", "/videos", body, key)
    assert (status, headers["x-should-retry"]) == (409, "false"), found


async def test_a_retry_of_the_sdk_never_makes_a_second_video(
    idle: VideoStack, session: aiohttp.ClientSession
) -> None:
    caller = Caller(idle.base_url, session)

    def count(number: int) -> dict[str, str]:
        return {"x-stainless-retry-count": str(number), "x-stainless-read-timeout": "600"}

    first = await caller.create(headers=count(0))
    retried = await caller.create(headers=count(1))
    anew = await caller.create(headers=count(0))
    retried_anew = await caller.create(headers=count(2))
    lost = await caller.create(headers=count(1), prompt="another that was never heard")
    assert first["id"] == retried["id"]
    assert anew["id"] == retried_anew["id"] != first["id"]
    assert lost["id"] not in {first["id"], anew["id"]}


async def test_videos_are_listed_in_a_stable_order_even_behind_one_that_is_gone(
    idle: VideoStack, session: aiohttp.ClientSession
) -> None:
    caller = Caller(idle.base_url, session)
    ids = [(await caller.create())["id"] for _ in range(7)]
    seen: list[str] = []
    after = ""
    while True:
        _, page, _ = await caller.ask("GET", f"/videos?limit=3{after}")
        seen += [each["id"] for each in page["data"]]
        assert (page["first_id"], page["last_id"]) == (page["data"][0]["id"], seen[-1])
        if not page["has_more"]:
            break
        after = f"&after={page['last_id']}"
    assert seen == sorted(ids, reverse=True)
    assert (await caller.ask("DELETE", f"/videos/{ids[3]}"))[0] == 200
    _, page, _ = await caller.ask("GET", f"/videos?order=asc&after={ids[3]}")
    assert [each["id"] for each in page["data"]] == ids[4:]


async def test_a_waiting_video_can_be_cancelled_and_is_failed_then(
    idle: VideoStack, session: aiohttp.ClientSession
) -> None:
    caller = Caller(idle.base_url, session)
    video = await caller.create()
    status, found, _ = await caller.ask("POST", f"/videos/{video['id']}/cancel")
    assert (status, found["status"], found["error"]["code"]) == (200, "failed", "cancelled")
    async with running_worker(idle.gateway):
        other = await caller.create()
        await caller.ended(other["id"])
    assert idle.replicas[0].created == 1
    again = await caller.ask("POST", f"/videos/{video['id']}/cancel")
    assert (again[0], again[1]["status"]) == (200, "failed")


@pytest.mark.parametrize("abortable", [True, False])
async def test_cancelling_a_running_video_frees_its_replica(
    redis_url: str, tmp_path: Path, session: aiohttp.ClientSession, abortable: bool
) -> None:
    # 64x64 with 33 frames: a step takes a fifth of a second.
    slow = DiffusionSettings(
        model=VIDEO_MODEL, fixed_s=0.0, speed=0.012, jitter=0.0, abortable=abortable
    )
    async with video_stack(redis_url, tmp_path, diffusion=slow) as stack:
        caller = Caller(stack.base_url, session)
        video = await caller.create(num_frames=33, num_inference_steps=8)
        replica = stack.replicas[0]
        await until(lambda: replica.steps_done >= 1)
        await caller.ask("POST", f"/videos/{video['id']}/cancel")
        found = await caller.ended(video["id"])
        at_cancel = replica.steps_done
        assert found["error"]["code"] == "cancelled"
        other = await caller.create(num_frames=5, num_inference_steps=1)
        assert (await caller.ended(other["id"]))["status"] == "completed"
        wasted = replica.steps_done - 1 - at_cancel
        assert wasted <= 3 if abortable else wasted == 8 - at_cancel
        store = stack.gateway.services.redis
        await eventually(lambda: _empty(store, "sluice:jobs:slots"))


async def _empty(redis: Any, key: str) -> bool:
    return not await redis.exists(key)


async def test_a_deleted_video_is_gone_with_its_files(
    stack: VideoStack, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    caller = Caller(stack.base_url, session)
    video = await caller.create()
    await caller.ended(video["id"])
    folder = tmp_path / "artifacts" / "videos" / video["id"]
    assert [*folder.rglob("video.mp4")]
    status, found, _ = await caller.ask("DELETE", f"/videos/{video['id']}")
    assert (status, found["object"], found["deleted"]) == (200, "video.deleted", True)
    assert not folder.exists()
    for path in (f"/videos/{video['id']}", f"/videos/{video['id']}/content"):
        assert (await caller.ask("GET", path))[0] == 404
    assert (await caller.ask("GET", "/videos"))[1]["data"] == []


async def test_content_comes_whole_in_parts_and_not_twice(
    stack: VideoStack, session: aiohttp.ClientSession
) -> None:
    caller = Caller(stack.base_url, session)
    video = await caller.create()
    path = f"/videos/{video['id']}/content"
    status, found, headers = await caller.ask("GET", path)
    if status != 200:
        assert (status, found["error"]["code"]) == (409, "video_not_ready")
        assert headers["x-should-retry"] == "false"
    await caller.ended(video["id"])
    _, whole, headers = await caller.ask("GET", path)
    etag = headers["etag"]
    assert headers["content-type"] == "video/mp4"
    assert int(headers["content-length"]) == len(whole)
    for asked, part in (
        ("bytes=0-99", whole[:100]),
        ("bytes=100-", whole[100:]),
        ("bytes=-50", whole[-50:]),
    ):
        status, data, headers = await caller.ask("GET", path, headers={"range": asked})
        assert (status, data) == (206, part)
        assert headers["content-range"].endswith(f"/{len(whole)}")
    beyond = await caller.ask("GET", path, headers={"range": f"bytes={len(whole)}-"})
    assert (beyond[0], beyond[2]["content-range"]) == (416, f"bytes */{len(whole)}")
    same = await caller.ask("GET", path, headers={"if-none-match": etag})
    assert (same[0], same[1]) == (304, b"")
    other = await caller.ask("GET", path, headers={"range": "bytes=0-9", "if-range": '"x"'})
    assert (other[0], other[1]) == (200, whole)


async def test_stills_are_pictures(stack: VideoStack, session: aiohttp.ClientSession) -> None:
    caller = Caller(stack.base_url, session)
    video = await caller.create(num_frames=33)
    await caller.ended(video["id"])
    sizes = {"thumbnail": (64, 64), "spritesheet": (256, 256)}
    for variant, size in sizes.items():
        path = f"/videos/{video['id']}/content?variant={variant}"
        status, data, headers = await caller.ask("GET", path)
        assert (status, headers["content-type"]) == (200, "image/webp")
        with av.open(io.BytesIO(data), "r", format="webp_pipe") as picture:
            found = picture.streams.video[0]
            assert (found.width, found.height) == size
    status, found, _ = await caller.ask("GET", f"/videos/{video['id']}/content?variant=0")
    assert (status, found["error"]["param"]) == (400, "variant")


async def test_a_generation_that_fails_is_tried_again_with_the_same_seed_then_fails(
    redis_url: str, tmp_path: Path, session: aiohttp.ClientSession
) -> None:
    from backends.simulated.diffusion_settings import DiffusionFaults

    broken = DiffusionSettings(
        model=VIDEO_MODEL, fixed_s=0.0, faults=DiffusionFaults(fail_rate=1.0)
    )
    async with video_stack(redis_url, tmp_path, diffusion=broken) as stack:
        caller = Caller(stack.base_url, session)
        video = await caller.create()
        found = await caller.ended(video["id"])
        assert (found["status"], found["error"]["code"]) == ("failed", "generation_failed")
        jobs = stack.gateway.services.jobs
        assert len(await jobs.reasons(video["id"])) == 3
        assert [each["job"] for each in await jobs.dead()] == [video["id"]]
        assert len({body["seed"] for body in stack.replicas[0].bodies}) == 1
        assert len(stack.replicas[0].bodies) == 3
        stack.replicas[0].settle(faults=DiffusionFaults())
        assert await jobs.requeue(video["id"], now=stack.gateway.services.clock.now())
        assert (await caller.ended(video["id"]))["status"] == "completed"


async def test_a_replica_that_is_started_again_loses_no_video(
    redis_url: str, tmp_path: Path, session: aiohttp.ClientSession
) -> None:
    slow = DiffusionSettings(model=VIDEO_MODEL, fixed_s=0.0, speed=0.02, jitter=0.0)
    async with video_stack(redis_url, tmp_path, diffusion=slow) as stack:
        caller = Caller(stack.base_url, session)
        video = await caller.create(num_frames=33)
        replica = stack.replicas[0]
        await until(lambda: replica.steps_done >= 1)
        replica.restart()
        assert (await caller.ended(video["id"]))["status"] == "completed"
        assert replica.created == 2
        assert replica.bodies[0]["seed"] == replica.bodies[1]["seed"]


async def test_a_second_worker_goes_on_watching_what_the_first_began(
    redis_url: str, tmp_path: Path, session: aiohttp.ClientSession
) -> None:
    slow = DiffusionSettings(model=VIDEO_MODEL, fixed_s=0.0, speed=0.02, jitter=0.0)
    async with video_stack(redis_url, tmp_path, diffusion=slow, work=False) as stack:
        caller = Caller(stack.base_url, session)
        video = await caller.create(num_frames=33)
        replica = stack.replicas[0]
        async with running_worker(stack.gateway):
            await until(lambda: replica.steps_done >= 1)
        async with running_worker(stack.gateway):
            assert (await caller.ended(video["id"]))["status"] == "completed"
        assert replica.created == 1


async def test_a_video_that_misses_its_deadline_fails(
    redis_url: str, tmp_path: Path, session: aiohttp.ClientSession
) -> None:
    async with video_stack(redis_url, tmp_path, work=False, video={"deadline_s": 0.5}) as stack:
        caller = Caller(stack.base_url, session)
        video = await caller.create()
        found = await caller.ended(video["id"])
        assert found["error"]["code"] == "deadline_exceeded"


async def test_a_video_that_would_be_late_is_refused_with_the_time_to_ask_again(
    redis_url: str, tmp_path: Path, session: aiohttp.ClientSession
) -> None:
    async with video_stack(redis_url, tmp_path, work=False, video={"deadline_s": 60}) as stack:
        caller = Caller(stack.base_url, session)
        jobs = stack.gateway.services.jobs
        body = {"model": VIDEO_MODEL, "prompt": "a cat", "size": "64x64", "num_frames": 5}
        units = 64 * 64 * 5 * 4
        # Past videos of this size took 80 s, and while few forecasts were compared, half of that is
        # thought possible: one can be done in time, not one behind another.
        for _ in range(20):
            await jobs.redis.lpush(f"sluice:jobs:service:{VIDEO_MODEL}", f"{units}.0 80.0")
        first = await caller.create({"idempotency-key": "one"})
        status, found, headers = await caller.ask("POST", "/videos", body)
        assert (status, found["error"]["code"]) == (429, "deadline_unreachable")
        assert 1 <= int(headers["retry-after"]) <= 120
        # What was taken on before is given again, late or not.
        assert (await caller.create({"idempotency-key": "one"}))["id"] == first["id"]


async def test_a_spent_quota_is_told_with_the_time_until_it_is_whole_again(
    redis_url: str, tmp_path: Path, session: aiohttp.ClientSession
) -> None:
    units = 64 * 64 * 5 * 4
    jobs = {"quota_units": 2.0 * units, "quota_window_s": 86_400}
    async with video_stack(redis_url, tmp_path, work=False, jobs=jobs) as stack:
        caller = Caller(stack.base_url, session)
        first = await caller.create()
        await caller.create()
        body = {"model": VIDEO_MODEL, "prompt": "a cat", "size": "64x64", "num_frames": 5}
        status, found, headers = await caller.ask("POST", "/videos", body)
        assert (status, found["error"]["code"]) == (429, "insufficient_quota")
        assert headers["x-ratelimit-remaining-pixel-frame-steps"] == "0"
        assert headers["x-should-retry"] == "false"  # more than two minutes from now
        await caller.ask("POST", f"/videos/{first['id']}/cancel")
        await caller.create()  # what was never begun is given back


async def test_only_so_many_videos_wait(
    redis_url: str, tmp_path: Path, session: aiohttp.ClientSession
) -> None:
    async with video_stack(redis_url, tmp_path, work=False, jobs={"most_waiting": 1}) as stack:
        caller = Caller(stack.base_url, session)
        await caller.create()
        body = {"model": VIDEO_MODEL, "prompt": "a cat", "num_frames": 5}
        status, found, headers = await caller.ask("POST", "/videos", body)
        assert (status, found["error"]["code"]) == (429, "queue_full")
        assert "retry-after" in headers


async def test_expired_videos_and_their_files_are_swept(
    stack: VideoStack, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    caller = Caller(stack.base_url, session)
    video = await caller.create()
    await caller.ended(video["id"])
    services = stack.gateway.services
    now = services.clock.now()
    assert await services.housekeeper.sweep(now=now) == 0
    assert await services.housekeeper.sweep(now=now + 90_000) == 1
    assert (await caller.ask("GET", f"/videos/{video['id']}"))[0] == 404
    assert not [*(tmp_path / "artifacts" / "videos").rglob("*.mp4")]


async def test_a_blocking_generation_answers_with_the_bytes_or_a_path_of_ours(
    stack: VideoStack, session: aiohttp.ClientSession
) -> None:
    caller = Caller(stack.base_url, session)
    asked = {
        **{"model": VIDEO_MODEL, "prompt": "a cat", "size": "64x64", "seconds": 0.5, "fps": 16},
        **{"num_inference_steps": 2, "guidance_scale": 4.0, "seed": 42},
        "output_format": "auto",
    }
    whole = {**asked, "response_format": "video_bytes"}
    status, found, _ = await caller.ask("POST", "/videos/generations", whole)
    assert status == 200, found
    data = base64.b64decode(found["video_bytes"])
    with av.open(io.BytesIO(data), "r") as container:
        assert container.streams.video[0].frames == 9
    linked = {**asked, "response_format": "video_path"}
    status, found, _ = await caller.ask("POST", "/videos/generations", linked)
    assert status == 200, found
    assert found["video_path"].startswith("/v1/artifacts/videos/")
    link = found["video_path"].removeprefix("/v1")
    status, served, _ = await caller.ask("GET", link)
    assert (status, served[4:8]) == (200, b"ftyp")
    assert (await caller.ask("GET", link[:-2] + "xx"))[0] == 403
    refused = {**asked, "latent_path": "/shared/latent.pt"}
    status, found, _ = await caller.ask("POST", "/videos/generations", refused)
    assert (status, found["error"]["param"]) == (400, "latent_path")


async def test_a_caller_who_leaves_a_blocking_generation_stops_it(
    redis_url: str, tmp_path: Path, session: aiohttp.ClientSession
) -> None:
    slow = DiffusionSettings(model=VIDEO_MODEL, fixed_s=0.0, speed=0.01, abortable=True)
    async with video_stack(redis_url, tmp_path, diffusion=slow) as stack:
        caller = Caller(stack.base_url, session)
        body = {"model": VIDEO_MODEL, "prompt": "a cat", "size": "64x64", "num_frames": 33}
        asking = asyncio.create_task(caller.ask("POST", "/videos/generations", body))
        await until(lambda: stack.replicas[0].steps_done >= 1)
        asking.cancel()
        _, page, _ = await caller.ask("GET", "/videos")
        found = await caller.ended(page["data"][0]["id"])
        assert found["error"]["code"] == "cancelled"


async def test_a_replica_that_cannot_abort_is_started_again_when_that_is_cheaper(
    redis_url: str, tmp_path: Path, session: aiohttp.ClientSession
) -> None:
    # A small video takes 0.4 s, the large one 13 s: with restarts at 1 s only that one is worth it.
    how = DiffusionSettings(model=VIDEO_MODEL, fixed_s=0.0, speed=0.0036, jitter=0.0)
    async with video_stack(redis_url, tmp_path, diffusion=how, jobs={"restart_s": 1.0}) as stack:
        caller, (replica,) = Caller(stack.base_url, session), stack.replicas
        services = stack.gateway.services
        ids = [each.replica.id for each in services.registry.fleet.pool(VIDEO_MODEL).routable]
        obeying = asyncio.create_task(
            obey(services.redis, ids, lambda _: replica.restart(), services.clock)
        )
        await caller.ended((await caller.create())["id"])  # from which the law is learned
        small: dict[str, Any] = {}
        large = {"num_frames": 33, "num_inference_steps": 10}
        for size, restarts in ((small, 0), (large, 1)):
            began = replica.steps_done + 1
            video = await caller.create(**size)
            await until(lambda least=began: replica.steps_done >= least)  # type: ignore[misc]
            await caller.ask("POST", f"/videos/{video['id']}/cancel")
            assert (await caller.ended(video["id"]))["error"]["code"] == "cancelled"
            assert (await caller.ended((await caller.create())["id"]))["status"] == "completed"
            assert replica.restarts == restarts
        obeying.cancel()
        await asyncio.wait({obeying})


async def test_the_creation_of_a_video_counts_as_a_request_of_its_tenant(
    redis_url: str, tmp_path: Path, session: aiohttp.ClientSession
) -> None:
    tenants = {"default": {"requests_per_min": 2}}
    async with video_stack(redis_url, tmp_path, work=False, tenants=tenants) as stack:
        caller = Caller(stack.base_url, session)
        body = {"model": VIDEO_MODEL, "prompt": "a cat", "num_frames": 5}
        status, _, headers = await caller.ask("POST", "/videos", body)
        assert (status, headers["x-ratelimit-remaining-requests"]) == (200, "1")
        await caller.create()
        status, found, headers = await caller.ask("POST", "/videos", body)
        assert (status, found["error"]["code"]) == (429, "rate_limit_exceeded")
        assert headers["x-ratelimit-remaining-requests"] == "0"
        assert "retry-after" in headers
