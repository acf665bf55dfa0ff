"""How does SGLang's diffusion server behave, without a GPU? Its surface, with a time by a law.

Jobs live in memory and run one after another; DELETE drops what is known of a job and does not stop
it; there is no queue limit, no load page and (unless `abortable`) no way to cancel. Shapes: sglang
0.5.23's own answers. Time: MLPerf Inference v6.0, wan-2.2 SingleStream on 8 MI355X, 27.38 s for
1280x720, 81 frames, 20 steps; linear in pixels x frames x steps.
"""

import asyncio
import random
import re
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import orjson
from aiohttp import web

from backends.clock import Clock, SystemClock
from backends.simulated.diffusion_clip import clip

MI355X_NODE_S = 27.38
MLPERF_UNITS = 1280 * 720 * 81 * 20
_SIZE = re.compile(r"([1-9]\d*)x([1-9]\d*)")


@dataclass(frozen=True, slots=True)
class DiffusionFaults:
    """What goes wrong, on request; rates are shares of jobs."""

    fail_rate: float = 0.0
    refuse_rate: float = 0.0  # 500 on creation
    seed: int = 0


@dataclass(frozen=True, slots=True)
class DiffusionSettings:
    """One simulated replica. `speed` divides its times; `jitter` is their relative spread."""

    model: str = "wan-2.2-t2v-a14b"
    host: str = "127.0.0.1"
    port: int = 0
    replicas: int = 1
    speed: float = 1.0
    fixed_s: float = 1.0
    jitter: float = 0.01
    abortable: bool = False
    api_key: str | None = None
    faults: DiffusionFaults = field(default_factory=DiffusionFaults)

    def step_s(self, pixels_frames: float) -> float:
        """How long one denoising step takes."""
        return pixels_frames * (MI355X_NODE_S - 1.0) / MLPERF_UNITS / self.speed


@dataclass(slots=True)
class _Job:
    id: str
    created_at: int
    model: str
    width: int
    height: int
    frames: int
    fps: int
    steps: int
    status: str = "queued"
    progress: int = 0
    done_steps: int = 0
    completed_at: int | None = None
    error: dict[str, str] | None = None
    aborted: bool = False

    def shown(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": "video",
            "model": self.model,
            "status": self.status,
            "progress": self.progress,
            "created_at": self.created_at,
            "size": f"{self.width}x{self.height}",
            "seconds": str(round(self.frames / self.fps)),
            "quality": "standard",
            "url": None,
            "urls": [None] if self.completed_at else None,
            "remixed_from_video_id": None,
            "completed_at": self.completed_at,
            "expires_at": None,
            "error": self.error,
            "file_path": f"/srv/outputs/{self.id}.mp4",
            "file_paths": None,
            "num_outputs": 1 if self.completed_at else None,
            "peak_memory_mb": None,
            "inference_time_s": None,
            "revised_prompt": None,
            "action": None,
            "lidar": None,
        }


class DiffusionReplica:
    """The engine: a dictionary of jobs, and a task that works on one at a time.

    `steps_done`, `created` and `wasted_steps` (of jobs that were aborted or dropped meanwhile) are
    what a test counts; `bodies` what was asked.
    """

    def __init__(self, settings: DiffusionSettings, clock: Clock) -> None:
        self.settings = settings
        self.url = ""
        self.ready = True
        self.created = 0
        self.steps_done = 0
        self.restarts = 0
        self.bodies: list[dict[str, Any]] = []
        self.jobs: dict[str, _Job] = {}
        self._clock = clock
        self._queue: asyncio.Queue[_Job] = asyncio.Queue()
        self._chance = random.Random(settings.faults.seed)
        self._current: _Job | None = None

    async def run(self) -> None:
        """Work for ever."""
        while True:
            job = await self._queue.get()
            self._current = job
            try:
                await self._generate(job)
            finally:
                self._current = None

    def restart(self) -> None:
        """Forget all, as a process does that died and was started again."""
        for job in self.jobs.values():
            job.aborted = True
        self.jobs.clear()
        self.restarts += 1

    def settle(self, **changes: Any) -> None:
        """Change settings while it runs."""
        self.settings = replace(self.settings, **changes)

    async def _generate(self, job: _Job) -> None:
        job.status = "in_progress"
        spread = self._chance.gauss(1.0, self.settings.jitter)
        fails = self._chance.random() < self.settings.faults.fail_rate
        await self._clock.sleep(self.settings.fixed_s / self.settings.speed)
        for step in range(job.steps):
            if job.aborted:
                return
            step_s = self.settings.step_s(job.width * job.height * job.frames)
            await self._clock.sleep(max(step_s * spread, 0.0))
            self.steps_done += 1
            job.done_steps = step + 1
            job.progress = min(99, 100 * (step + 1) // job.steps)
        if job.aborted:
            return
        if fails:
            job.status, job.progress = "failed", 0
            job.error = {"message": "Model generation failed. Error from scheduler: simulated"}
            return
        job.status, job.progress = "completed", 100
        job.completed_at = int(self._clock.now())

    async def create(self, request: web.Request) -> web.Response:
        """POST /v1/videos."""
        if self._chance.random() < self.settings.faults.refuse_rate:
            return _detail(500, "Internal Server Error")
        fields = await _fields(request)
        if fields is None or not fields.get("prompt"):
            return _detail(
                400, "Invalid request body: 1 validation error\nprompt\n  Field required"
            )
        size = _SIZE.fullmatch(str(fields.get("size", "1280x720")))
        if size is None:
            return _detail(400, "size must be formatted as positive WIDTHxHEIGHT")
        steps = int(fields.get("num_inference_steps", 40))
        if steps < 1:
            return _detail(400, "num_inference_steps must be positive")
        fps = int(fields.get("fps", 24))
        frames = (
            int(fields.get("num_frames", 0)) or fps * int(fields.get("seconds", 4)) // 4 * 4 + 1
        )
        job = _Job(
            id=str(uuid.uuid4()),
            created_at=int(self._clock.now()),
            model=str(fields.get("model", self.settings.model)),
            width=int(size[1]),
            height=int(size[2]),
            frames=frames,
            fps=fps,
            steps=steps,
        )
        self.created += 1
        self.bodies.append(fields)
        self.jobs[job.id] = job
        self._queue.put_nowait(job)
        return web.json_response(job.shown())

    async def find(self, request: web.Request) -> web.Response:
        """GET /v1/videos/{id}."""
        job = self.jobs.get(request.match_info["id"])
        return _detail(404, "Video not found") if job is None else web.json_response(job.shown())

    async def list(self, request: web.Request) -> web.Response:
        """GET /v1/videos."""
        jobs = [*self.jobs.values()]
        if request.query.get("order", "desc") == "desc":
            jobs.reverse()
        data = [job.shown() for job in jobs[: int(request.query.get("limit", "20"))]]
        ids = [each["id"] for each in data]
        first, last = (ids[0], ids[-1]) if ids else (None, None)
        return web.json_response(
            {"data": data, "object": "list", "first_id": first, "last_id": last, "has_more": False}
        )

    async def delete(self, request: web.Request) -> web.Response:
        """DELETE /v1/videos/{id}: forgets it; what runs goes on."""
        job = self.jobs.pop(request.match_info["id"], None)
        if job is None:
            return _detail(404, "Video not found")
        return web.json_response({**job.shown(), "status": "deleted"})

    async def cancel(self, request: web.Request) -> web.Response:
        """POST /v1/videos/{id}/cancel: what an engine could do that can abort."""
        job = self.jobs.get(request.match_info["id"])
        if not self.settings.abortable or job is None:
            return _detail(404, "Not Found")
        job.aborted = True
        job.status, job.error = "failed", {"message": "aborted"}
        return web.json_response(job.shown())

    async def content(self, request: web.Request) -> web.Response:
        """GET /v1/videos/{id}/content: `variant` is an integer there."""
        job = self.jobs.get(request.match_info["id"])
        if (
            job is None
            or job.status != "completed"
            or not request.query.get("variant", "0").isdigit()
        ):
            return _detail(404, "Video not found")
        data = clip(job.width, job.height, job.frames, job.fps)
        return web.Response(body=data, content_type="video/mp4")

    async def health(self, _: web.Request) -> web.Response:
        """GET /health: readiness."""
        return web.json_response({"status": "ok"}, status=200 if self.ready else 503)

    async def models(self, _: web.Request) -> web.Response:
        """GET /v1/models."""
        model = {"id": self.settings.model, "object": "model", "owned_by": "sglang"}
        return web.json_response({"object": "list", "data": [{**model, "task_type": "T2V"}]})

    async def model_info(self, _: web.Request) -> web.Response:
        """GET /model_info."""
        return web.json_response({"model_path": self.settings.model, "model_type": "diffusion"})


def create_app(replica: DiffusionReplica) -> web.Application:
    """Route SGLang's paths to a replica."""

    @web.middleware
    async def guard(request: web.Request, handler: Any) -> web.StreamResponse:
        key = replica.settings.api_key
        if key is not None and request.headers.get("Authorization") != f"Bearer {key}":
            return _detail(401, "Unauthorized")
        answer: web.StreamResponse = await handler(request)
        return answer

    app = web.Application(middlewares=[guard], client_max_size=64 * 1024 * 1024)
    add = app.router.add_route
    for path in ("/health", "/health_generate", "/liveness"):
        add("GET", path, replica.health)
    add("GET", "/v1/models", replica.models)
    add("GET", "/models", replica.models)
    add("GET", "/model_info", replica.model_info)
    add("POST", "/v1/videos", replica.create)
    add("GET", "/v1/videos", replica.list)
    add("GET", "/v1/videos/{id}", replica.find)
    add("DELETE", "/v1/videos/{id}", replica.delete)
    add("POST", "/v1/videos/{id}/cancel", replica.cancel)
    add("GET", "/v1/videos/{id}/content", replica.content)
    return app


@asynccontextmanager
async def serve_diffusion(
    settings: DiffusionSettings, *, clock: Clock | None = None
) -> AsyncIterator[tuple[DiffusionReplica, ...]]:
    """Serve replicas while the block runs; OSError where a port is taken."""
    time = clock or SystemClock()
    replicas: list[DiffusionReplica] = []
    runners: list[web.AppRunner] = []
    tasks: list[asyncio.Task[None]] = []
    try:
        for index in range(settings.replicas):
            each = DiffusionReplica(settings, time)
            runner = web.AppRunner(create_app(each), access_log=None, shutdown_timeout=0.1)
            await runner.setup()
            runners.append(runner)
            port = settings.port + index if settings.port else 0
            await web.TCPSite(runner, settings.host, port).start()
            each.url = f"http://{settings.host}:{runner.addresses[0][1]}"
            tasks.append(asyncio.create_task(each.run(), name=f"diffusion {each.url}"))
            replicas.append(each)
        yield tuple(replicas)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for runner in runners:
            await runner.cleanup()


def _detail(status: int, text: str) -> web.Response:
    return web.json_response({"detail": text}, status=status)


async def _fields(request: web.Request) -> dict[str, Any] | None:
    if request.content_type.startswith("multipart/"):
        form = await request.post()
        return {
            name: value.file.read() if isinstance(value, web.FileField) else value
            for name, value in form.items()
        }
    try:
        found = orjson.loads(await request.read())
    except ValueError:
        return None
    return found if isinstance(found, dict) else None
