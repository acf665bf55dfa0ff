"""How is one row of a batch served? As a call of the class that waits, through the pipeline."""

import asyncio
import random
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from gateway.api.drafts import Asker, Read, guarded, make_call
from gateway.api.generation import read_chat, read_completion
from gateway.api.passthrough import read_embeddings
from gateway.api.responses_create import Desk
from gateway.call import Principal
from gateway.errors import GatewayError, InsufficientQuota, RateLimited, envelope
from gateway.jobs.batches import Tokens
from gateway.jobs.model import Job, JobStatus
from gateway.repeats import Repeat
from gateway.services import Services
from gateway.sink import Flow, Header
from gateway.wire.batches import Row
from gateway.wire.videos import shown
from gateway.worker_yield import Yielded, Yielding

LONGEST_PAUSE_S = 30.0
LEAST_PAUSE_S = 0.05
MOST_FAULTS = 3
VIDEO_POLL_S = 0.5
NO_TOKENS = Tokens()


@dataclass(frozen=True, slots=True)
class Answered:
    """A row's answer: status, body, what it used."""

    request_id: str
    status: int
    body: Any
    tokens: Tokens = NO_TOKENS

    @property
    def done_well(self) -> bool:
        """Whether it belongs in the output file."""
        return self.status == 200


class RowServer:
    """Serves the rows of batches with the services of this process."""

    def __init__(self, services: Services, yielding: Yielding) -> None:
        self._services = services
        self._yielding = yielding
        self._reads: dict[str, Read] = {
            "/v1/chat/completions": read_chat,
            "/v1/completions": read_completion,
            "/v1/embeddings": read_embeddings,
            "/v1/responses": Desk(services.responses).read,
        }

    async def serve(self, job: Job, principal: Principal, row: Row, endpoint: str) -> Answered:
        """Serve one row, however long there is no room for it; cancel to stop."""
        faults = limited = 0
        while True:
            request_id = f"req_{uuid.uuid4().hex}"
            try:
                if endpoint == "/v1/videos":
                    return await self._video(job, principal, row, request_id)
                return await self._call(job, principal, row, endpoint, request_id)
            except Yielded:
                pause_s = LEAST_PAUSE_S
            except GatewayError as error:
                busy = error.status in (429, 503)
                faults += not busy
                if (error.status < 500 and not busy) or faults >= MOST_FAULTS or _never(error):
                    return Answered(request_id, error.status, envelope(error))
                limited = limited + 1 if isinstance(error, RateLimited) else 0
                pause_s = _pause_s(error, limited)
            await asyncio.sleep(min(max(pause_s, LEAST_PAUSE_S), LONGEST_PAUSE_S))

    async def _call(
        self, job: Job, principal: Principal, row: Row, endpoint: str, request_id: str
    ) -> Answered:
        services = self._services
        body = {**row.body, "stream": False}
        if endpoint == "/v1/embeddings":
            del body["stream"]
        asker = Asker(principal, {}, services)
        draft = await self._reads[endpoint](orjson.dumps(body), asker)
        arrived = asyncio.get_running_loop().time()
        draft = await guarded(services.settings, principal, draft)
        call = make_call(services, principal, draft, {}, request_id, arrived)
        call.class_name = job.class_name
        call.deadline = arrived + max(job.deadline - services.clock.now(), 1.0)
        sink = _Kept()
        receipt = await self._yielding.run(
            call.key, call.model, services.pipeline.serve(call, sink)
        )
        used = receipt.usage
        tokens = Tokens() if used is None else Tokens(used.prompt_tokens, used.completion_tokens)
        return Answered(request_id, sink.status, sink.document(), tokens)

    async def _video(self, job: Job, principal: Principal, row: Row, request_id: str) -> Answered:
        """Make a video job of the row and wait for it; a row that is run again finds its own."""
        services = self._services
        video = await services.videos.create(
            row.body,
            principal,
            repeat=Repeat(key=f"{job.id}/{row.custom_id}"),
            within_s=max(job.deadline - services.clock.now(), 1.0),
            class_name=job.class_name,
            request_id=request_id,
            traceparent=job.traceparent,
        )
        try:
            while not video.has_ended:
                await asyncio.sleep(VIDEO_POLL_S)
                video = await services.jobs.find(video.id) or video
        except asyncio.CancelledError:
            await services.jobs.cancel(video.id, now=services.clock.now())
            raise
        status = 200 if video.status is JobStatus.COMPLETED else 500
        return Answered(request_id, status, shown(video))


def _never(error: GatewayError) -> bool:
    """Whether a limit is below what this row needs, however long it waits."""
    return isinstance(error, RateLimited) and error.final


def _pause_s(error: GatewayError, limited: int) -> float:
    """Say how long a row waits: rows that wait for one limit must not all ask at once, for ever."""
    if isinstance(error, InsufficientQuota):
        return LONGEST_PAUSE_S
    pause_s = error.retry_after_s or 1.0
    if limited:
        pause_s += min(2.0 ** min(limited, 4), 8.0) * random.random()
    return pause_s


class _Kept:
    """A sink that keeps the answer."""

    def __init__(self) -> None:
        self.started = False
        self.status = 0
        self._pieces: list[bytes] = []

    async def start(self, status: int, headers: Sequence[Header]) -> None:
        """Note the status."""
        self.started, self.status = True, status

    def feed_from(self, flow: Flow | None) -> None:
        """Nobody reads slowly."""

    def write(self, data: bytes) -> None:
        """Keep a piece."""
        self._pieces.append(data)

    async def finish(self, data: bytes = b"") -> None:
        """Keep the last piece."""
        self._pieces.append(data)

    def document(self) -> Any:
        """Give the answer."""
        data = b"".join(self._pieces)
        try:
            return orjson.loads(data)
        except ValueError:
            return data.decode("utf-8", "replace")
