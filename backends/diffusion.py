"""How is SGLang's diffusion server started on MI355X, asked for a video, and understood?

Facts of sglang 0.5.23 (multimodal_gen/runtime/entrypoints): jobs live in a dictionary of the
process, one runs at a time, nothing can be cancelled, unknown fields have effects on the server,
and what is left out falls back to 24 fps x 4 s. So all of it is sent, by an allow-list.
"""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import aiohttp
import orjson
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from backends.fleet import Replica
from backends.video_order import VideoOrder

VIDEOS_PATH = "/v1/videos"
ABORT_SUFFIX = "/cancel"
ASK_TIMEOUT_S = 10.0
CREATE_TIMEOUT_S = 60.0
PIECE_BYTES = 256 * 1024
_PROPAGATOR = TraceContextTextMapPropagator()


class UnknownVideoModel(ValueError):
    """No launch line is known for this model."""


class EngineState(StrEnum):
    """Where a video stands in the engine."""

    QUEUED = "queued"
    IN_PROGRESS = "in_progress"
    COMPLETED = "completed"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class EngineVideo:
    """What the engine says of a video; its message is not for callers (it names internals)."""

    id: str
    state: EngineState
    progress: int
    created_at: float
    message: str = ""

    @property
    def is_at_work(self) -> bool:
        """Whether it holds the engine."""
        return self.state in (EngineState.QUEUED, EngineState.IN_PROGRESS)


class EngineGone(Exception):
    """The engine does not answer, or has forgotten the video: it died or was started again."""


class EngineForgot(EngineGone):
    """The engine answers, and knows no such video (404): it was started again."""


class EngineRefused(Exception):
    """The engine will not make this video (4xx): another try cannot help."""


class EngineBroken(Exception):
    """The engine failed (5xx): another may not."""


class DiffusionClient:
    """One diffusion replica, over HTTP. Methods raise EngineGone, EngineRefused, EngineBroken."""

    def __init__(self, session: aiohttp.ClientSession, replica: Replica) -> None:
        self._session = session
        self._replica = replica
        self._base = replica.url.rstrip("/")
        key = replica.api_key
        self._headers = {} if key is None else {"Authorization": f"Bearer {key}"}

    async def create(self, order: VideoOrder, reference: bytes | None = None) -> EngineVideo:
        """Have it make a video; its spans hang below the one that is current here, if any."""
        fields = order.engine_fields(self._replica.engine_model)
        if reference is None:
            return _video(await self._ask("POST", VIDEOS_PATH, json=fields))
        form = aiohttp.FormData()
        for name, value in fields.items():
            form.add_field(name, str(value))
        form.add_field("input_reference", reference, filename="reference")
        return _video(await self._ask("POST", VIDEOS_PATH, data=form))

    async def find(self, video_id: str) -> EngineVideo:
        """Look how far it is."""
        return _video(await self._ask("GET", f"{VIDEOS_PATH}/{video_id}"))

    async def newest(self, limit: int = 20) -> list[EngineVideo]:
        """Give the engine's latest videos, newest first."""
        found = await self._ask("GET", f"{VIDEOS_PATH}?limit={limit}&order=desc")
        return [_video(each) for each in found.get("data", ())]

    async def forget(self, video_id: str) -> None:
        """Have it drop what it keeps of a video (it does not stop the work)."""
        await self._ask("DELETE", f"{VIDEOS_PATH}/{video_id}")

    async def abort(self, video_id: str) -> bool:
        """Stop a video; False where the engine cannot (SGLang 0.5.23 cannot)."""
        try:
            await self._ask("POST", f"{VIDEOS_PATH}/{video_id}{ABORT_SUFFIX}")
        except (EngineForgot, EngineRefused):
            return False
        return True

    async def content(self, video_id: str) -> AsyncIterator[bytes]:
        """Give the file, piece by piece."""
        timeout = aiohttp.ClientTimeout(total=None, connect=5.0, sock_read=60.0)
        path = f"{self._base}{VIDEOS_PATH}/{video_id}/content"
        try:
            async with self._session.get(path, headers=self._headers, timeout=timeout) as answer:
                if answer.status != 200:
                    raise _error(answer.status, await answer.read())
                async for piece in answer.content.iter_chunked(PIECE_BYTES):
                    yield piece
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise EngineGone(str(error)) from error

    async def _ask(self, method: str, path: str, **more: Any) -> dict[str, Any]:
        total_s = CREATE_TIMEOUT_S if method == "POST" else ASK_TIMEOUT_S
        timeout = aiohttp.ClientTimeout(total=total_s, connect=3.0)
        headers = dict(self._headers)
        _PROPAGATOR.inject(headers)
        try:
            async with self._session.request(
                method, self._base + path, headers=headers, timeout=timeout, **more
            ) as answer:
                body = await answer.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise EngineGone(str(error) or type(error).__name__) from error
        if answer.status != 200:
            raise _error(answer.status, body)
        try:
            found: dict[str, Any] = orjson.loads(body)
        except ValueError as error:
            raise EngineBroken("the engine's answer is no JSON") from error
        return found


async def videos_at_work(session: aiohttp.ClientSession, replica: Replica) -> int:
    """Count the videos that a replica works on or has taken; 0 where it does not answer."""
    try:
        return sum(each.is_at_work for each in await DiffusionClient(session, replica).newest())
    except (EngineGone, EngineRefused, EngineBroken):
        return 0


def _error(status: int, body: bytes) -> Exception:
    try:
        said = str(orjson.loads(body)["detail"])
    except (ValueError, KeyError, TypeError):
        said = f"status {status}"
    if status in (404, 405):
        return EngineForgot(said)
    if 400 <= status < 500 and status != 429:
        return EngineRefused(said)
    return EngineBroken(said)


def _video(found: Mapping[str, Any]) -> EngineVideo:
    try:
        error = found.get("error") or {}
        return EngineVideo(
            id=str(found["id"]),
            state=EngineState(found["status"]),
            progress=int(found.get("progress") or 0),
            created_at=float(found.get("created_at") or 0),
            message=str(error.get("message", ""))[:500],
        )
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise EngineBroken("the engine's answer is not a video") from error


@dataclass(frozen=True, slots=True)
class DiffusionLine:
    """A command and what its environment adds."""

    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)


CHECKPOINTS = {"wan-2.2-t2v-a14b": "Wan-AI/Wan2.2-T2V-A14B-Diffusers"}


def launch_command(
    model: str,
    *,
    port: int,
    host: str = "127.0.0.1",
    gpus: int = 8,
    checkpoint: str | None = None,
    otlp: str | None = None,
    python: str = "python3",
) -> DiffusionLine:
    """Give the line that serves Wan2.2 on `gpus` MI355X.

    Two branches of classifier-free guidance in parallel, Ulysses over the rest. Never ring: with it
    SGLang 0.5.23 rejects AITER on ROCm and falls to torch's attention. No offloading: a GPU has
    288 GB, both experts and the text encoder take 66. `otlp` is HOST:PORT of a collector (gRPC), as
    in `backends.sglang`. Raises UnknownVideoModel.
    """
    path = checkpoint or CHECKPOINTS.get(model)
    if path is None:
        raise UnknownVideoModel(f"No checkpoint is known for '{model}'; give one.")
    if gpus < 1 or gpus & (gpus - 1):
        raise ValueError(f"GPUs come in powers of two, not {gpus}")
    argv = [python, "-m", "sglang.cli.main", "serve", "--model-path", path]
    argv += ["--model-type", "diffusion", "--host", host, "--port", str(port)]
    argv += ["--enable-metrics", "--num-gpus", str(gpus), "--attention-backend", "aiter"]
    if gpus > 1:
        argv += ["--enable-cfg-parallel", "--ulysses-degree", str(gpus // 2), "--ring-degree", "1"]
    env = {"SGLANG_USE_AITER": "1"}
    if otlp is not None:
        argv += ["--enable-trace", "--otlp-traces-endpoint", otlp]
        env["OTEL_TRACES_SAMPLER"] = "parentbased_always_off"
    return DiffusionLine(tuple(argv), env)
