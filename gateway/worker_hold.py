"""How does a worker keep its claim on a job alive, and learn that it is no longer its own?"""

import asyncio
from types import TracebackType
from typing import Self

import structlog
from redis.exceptions import RedisError

from backends.clock import Clock
from gateway.jobs.model import Claim, Standing
from gateway.jobs.store import JobStore

BEATS_PER_LEASE = 5.0
LONGEST_BEAT_S = 0.5  # so late is it learned that a job was cancelled, less than a step of a video

_log = structlog.get_logger("worker")


class Hold:
    """A claim with its heartbeat: `over` is set when the job is not ours to work on any more.

    `progress` (percent) goes out with the next beat. While the store is away the work goes on: if
    somebody else has the job afterwards, the fencing token keeps our result out.
    """

    def __init__(self, claim: Claim, jobs: JobStore, clock: Clock) -> None:
        self.claim = claim
        self.progress = 0
        self.started = False
        self.over = asyncio.Event()
        self.told = asyncio.Event()  # its end is wanted; how is its runner's matter
        self.standing = Standing.OK
        self._jobs = jobs
        self._clock = clock
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._keep(), name=f"hold {self.claim.job.id}")
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def tell(self, *, engine: str = "") -> Standing:
        """Write down now what the engine calls the work; waits until the store has it."""
        while True:
            try:
                return await self._beat(engine)
            except (RedisError, OSError):
                await self._clock.sleep(0.5)

    async def _keep(self) -> None:
        every_s = min(self._jobs.terms.lease_s / BEATS_PER_LEASE, LONGEST_BEAT_S)
        while self.standing is not Standing.LOST:
            try:
                await self._beat()
            except (RedisError, OSError) as error:
                _log.warning("beat_failed", job=self.claim.job.id, error=str(error)[:200])
            await self._clock.sleep(every_s)

    async def _beat(self, engine: str = "") -> Standing:
        standing = await self._jobs.beat(
            self.claim,
            now=self._clock.now(),
            progress=self.progress,
            started=self.started,
            engine=engine,
        )
        if standing is Standing.TOLD:
            self.told.set()
        elif standing is not Standing.OK:
            self.standing = standing
            self.over.set()
        return standing
