"""How does SGLang's diffusion server behave, without a GPU? Its surface, with a time by a law.

Jobs live in memory and run one after another; DELETE drops what is known of a job and does not stop
it; there is no queue limit, no load page and (unless `abortable`) no way to cancel. Shapes: sglang
0.5.23's own answers.
"""

import asyncio
import random
import re
import uuid
from dataclasses import replace
from typing import Any

import orjson
from aiohttp import web

from backends.clock import Clock
from backends.simulated.diffusion_clip import clip
from backends.simulated.diffusion_job import DiffusionJob
from backends.simulated.diffusion_settings import DiffusionSettings

_SIZE = re.compile(r"([1-9]\d*)x([1-9]\d*)")


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
        self.jobs: dict[str, DiffusionJob] = {}
        self._clock = clock
        self._queue: asyncio.Queue[DiffusionJob] = asyncio.Queue()
        self._chance = random.Random(settings.faults.seed)
        self._current: DiffusionJob | None = None

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

    async def _generate(self, job: DiffusionJob) -> None:
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
            return detail(500, "Internal Server Error")
        fields = await _fields(request)
        if fields is None or not fields.get("prompt"):
            return detail(400, "Invalid request body: 1 validation error\nprompt\n  Field required")
        size = _SIZE.fullmatch(str(fields.get("size", "1280x720")))
        if size is None:
            return detail(400, "size must be formatted as positive WIDTHxHEIGHT")
        steps = int(fields.get("num_inference_steps", 40))
        if steps < 1:
            return detail(400, "num_inference_steps must be positive")
        fps = int(fields.get("fps", 24))
        frames = (
            int(fields.get("num_frames", 0)) or fps * int(fields.get("seconds", 4)) // 4 * 4 + 1
        )
        job = DiffusionJob(
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
        return detail(404, "Video not found") if job is None else web.json_response(job.shown())

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
            return detail(404, "Video not found")
        return web.json_response({**job.shown(), "status": "deleted"})

    async def cancel(self, request: web.Request) -> web.Response:
        """POST /v1/videos/{id}/cancel: what an engine could do that can abort."""
        job = self.jobs.get(request.match_info["id"])
        if not self.settings.abortable or job is None:
            return detail(404, "Not Found")
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
            return detail(404, "Video not found")
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


def detail(status: int, text: str) -> web.Response:
    """Give an error as FastAPI words it."""
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
