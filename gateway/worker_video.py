"""How does a video come about? Lease on a replica -> engine -> artifact, and nothing twice.

Before the engine is asked, its newest video is written down (`after:ID` in the job's `engine`),
then the one that it has begun (`video:ID`). A worker that takes over finds by either what its
predecessor had begun, and goes on watching instead of beginning again. One job holds a replica at
a time, so whatever is newer there is its own.
"""

import contextlib
from collections.abc import Awaitable, Callable, Sequence

import aiohttp
import structlog
from redis.exceptions import RedisError

from backends.clock import Clock
from backends.diffusion import (
    DiffusionClient,
    EngineBroken,
    EngineForgot,
    EngineGone,
    EngineRefused,
    EngineState,
    EngineVideo,
)
from backends.fleet import EngineKind, Replica
from backends.registry import Registry
from backends.restarts import Restarts
from backends.video_order import VideoOrder
from gateway.artifacts import Artifacts, ArtifactsAway, NoArtifact, get
from gateway.jobs.model import Counter, Job, Offer
from gateway.worker import Done, JobFailed, TryAgain
from gateway.worker_hold import Hold

LEAST_POLL_S = 0.05
LONGEST_POLL_S = 1.0
GONE_AFTER_S = 5.0
GONE_PAUSE_S = 1.0  # the registry has taken it out by then

LeftS = Callable[[Job, int], Awaitable[float | None]]

_log = structlog.get_logger("worker")


class VideoRunner:
    """Makes videos on the diffusion replicas of a registry; `classes` in the order of service."""

    def __init__(
        self,
        registry: Registry,
        artifacts: Artifacts,
        session: aiohttp.ClientSession,
        clock: Clock,
        *,
        classes: Sequence[str],
        restarts: Restarts,
        left_s: LeftS,
        restart_s: float,
    ) -> None:
        self._registry = registry
        self._artifacts = artifacts
        self._session = session
        self._clock = clock
        self._classes = tuple(classes)
        self._restarts = restarts
        self._left_s = left_s
        self._restart_s = restart_s

    def offers(self) -> list[Offer]:
        """Offer every diffusion replica that may be routed to; the store knows which are free."""
        return [
            Offer(model, self._classes, replicas)
            for model, pool in self._registry.fleet.pools.items()
            if (
                replicas := tuple(
                    s.replica.id for s in pool.routable if s.replica.engine is EngineKind.DIFFUSION
                )
            )
        ]

    async def run(self, hold: Hold) -> Done:
        """Have the engine make it, and copy it out."""
        job = hold.claim.job
        client = self._client(self._replica(hold))
        order = VideoOrder.decode(job.payload["order"])
        try:
            video = await self._found(client, job) or await self._begin(client, hold, order)
            hold.started = True
            video = await self._watch(client, hold, video)
            return await self._copy(client, hold, video)
        except EngineForgot:
            raise TryAgain("the replica was started again") from None
        except EngineGone:
            raise TryAgain("the replica does not answer", delay_s=GONE_PAUSE_S) from None
        except EngineBroken as error:
            _log.warning("engine_broken", job=job.id, error=str(error)[:300])
            raise TryAgain("the replica failed", delay_s=1.0) from None
        except EngineRefused as error:
            _log.warning("engine_refused", job=job.id, error=str(error)[:300])
            raise JobFailed("invalid_request", "The engine cannot make this video.") from None
        except ArtifactsAway as error:
            _log.warning("artifacts_away", job=job.id, error=str(error)[:300])
            raise TryAgain("the artifact store does not answer", delay_s=5.0) from None

    async def abandon(self, hold: Hold) -> None:
        """Free the replica of a job that was ended: abort, start it again, or wait for it.

        No more of the replica's time is lost than `restart_s`, unless nobody can start it again.
        """
        try:
            replica = self._replica(hold)
            client = self._client(replica)
            for video in await client.newest():
                if video.is_at_work and not await client.abort(video.id):
                    await self._stop(client, replica, hold.claim.job, video)
        except (TryAgain, EngineGone, EngineBroken, EngineRefused):
            return  # nothing is left to be freed there

    async def _stop(
        self, client: DiffusionClient, replica: Replica, job: Job, video: EngineVideo
    ) -> None:
        """Start a replica again if that is cheaper than what is left of a video, else wait."""
        try:
            left_s = await self._left_s(job, video.progress)
            if left_s is not None and left_s > self._restart_s:
                taken = await self._restarts.ask(replica.id)
                _log.info("restart_asked", job=job.id, replica=replica.id, taken=taken)
        except (RedisError, OSError) as error:
            _log.warning("restart_not_asked", job=job.id, error=str(error)[:200])
        await self._until_idle(client)

    async def _found(self, client: DiffusionClient, job: Job) -> EngineVideo | None:
        """Find what an earlier worker has begun for this job on this replica."""
        if job.engine is None or job.replica is None:
            return None
        kind, _, name = job.engine.partition(":")
        if kind == "video":
            try:
                return await client.find(name)
            except EngineForgot:
                return None
        for video in await client.newest():  # it was about to ask: is there anything newer?
            if video.id == name:
                return None
            if video.state is not EngineState.FAILED:
                return video
        return None

    async def _begin(self, client: DiffusionClient, hold: Hold, order: VideoOrder) -> EngineVideo:
        try:
            await self._until_idle(client)
            newest = await client.newest(1)
        except EngineGone:  # nothing was begun: this counts as nobody's failure
            raise TryAgain(
                "the replica does not answer", delay_s=GONE_PAUSE_S, counter=Counter.NOTHING
            ) from None
        await hold.tell(engine=f"after:{newest[0].id if newest else '-'}")
        video = await client.create(order, await self._reference(hold.claim.job))
        await hold.tell(engine=f"video:{video.id}")
        return video

    async def _reference(self, job: Job) -> bytes | None:
        name = job.payload.get("reference")
        if not name:
            return None
        try:
            return await get(self._artifacts, str(name))
        except NoArtifact:
            raise JobFailed("invalid_request", "The input reference has expired.") from None

    async def _until_idle(self, client: DiffusionClient) -> None:
        """Wait while it works on a video that nobody wants any more."""
        while any(video.is_at_work for video in await client.newest()):
            await self._clock.sleep(0.25)

    async def _watch(self, client: DiffusionClient, hold: Hold, video: EngineVideo) -> EngineVideo:
        """Follow it to its end; a replica that is silent for seconds is gone."""
        began = answered = self._clock.monotonic()
        while video.is_at_work:
            hold.progress = max(hold.progress, min(video.progress, 99))
            elapsed_s = self._clock.monotonic() - began
            await self._clock.sleep(min(max(elapsed_s / 20, LEAST_POLL_S), LONGEST_POLL_S))
            try:
                video = await client.find(video.id)
                answered = self._clock.monotonic()
            except EngineForgot:
                raise
            except (EngineGone, EngineBroken):
                if self._clock.monotonic() - answered > GONE_AFTER_S:
                    raise
        if video.state is EngineState.FAILED:
            _log.warning("generation_failed", job=hold.claim.job.id, error=video.message)
            raise TryAgain("the generation failed")
        return video

    async def _copy(self, client: DiffusionClient, hold: Hold, video: EngineVideo) -> Done:
        """Copy the file out, under the name that our fencing token gives it."""
        claim = hold.claim
        draft = self._artifacts.draft(f"videos/{claim.job.id}/{claim.fence}/video.mp4")
        try:
            async for piece in client.content(video.id):
                await draft.write(piece)
            written = await draft.commit()
        finally:
            await draft.abandon()
        if written.size_bytes == 0:
            raise TryAgain("the replica gave an empty file")
        with contextlib.suppress(EngineGone, EngineBroken, EngineRefused):
            await client.forget(video.id)
        return Done(
            {"artifact": written.name, "bytes": written.size_bytes, "sha256": written.sha256}
        )

    def _replica(self, hold: Hold) -> Replica:
        standing = self._registry.fleet.standing(hold.claim.replica_id or "")
        if standing is None:
            raise TryAgain("the replica has left")
        return standing.replica

    def _client(self, replica: Replica) -> DiffusionClient:
        return DiffusionClient(self._session, replica)
