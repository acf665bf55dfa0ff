"""Who works on jobs? A worker claims them, has a runner do each, and writes down its one end.

claim (lease and fencing token) -> runner -> end, or back to the queue. What a worker leaves behind
when it is killed is claimed by another when the lease has run out.
"""

import asyncio
import os
import secrets
import socket
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import structlog
from redis.exceptions import RedisError

from backends.clock import Clock
from gateway.job_traces import JobTraces
from gateway.jobs.model import Claim, Counter, JobError, JobKind, JobStatus, Offer, Standing
from gateway.jobs.store import JobStore
from gateway.worker_hold import Hold

IDLE_S = 0.1
LONGEST_IDLE_S = 0.5
STORE_PAUSE_S = 0.5
LEAVE_S = 10.0  # a worker that is told to stop has this long to write down where it is

_log = structlog.get_logger("worker")


@dataclass(frozen=True, slots=True)
class Done:
    """The work is done; `result` says where it lies."""

    result: Mapping[str, Any]


class JobFailed(Exception):
    """The job cannot be done: it ends."""

    def __init__(self, code: str, message: str, result: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.error = JobError(code, message)
        self.result = result


class TryAgain(Exception):
    """This try failed, another may not."""

    def __init__(
        self, reason: str, *, delay_s: float = 0.0, counter: Counter = Counter.ATTEMPTS
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.delay_s = delay_s
        self.counter = counter


class Runner(Protocol):
    """Does one kind of job."""

    def offers(self) -> Sequence[Offer]:
        """Say what can be taken now."""
        ...

    async def run(self, hold: Hold) -> Done:
        """Do the work. Raises JobFailed or TryAgain; cancelled when the job is lost."""
        ...

    async def abandon(self, hold: Hold) -> None:
        """Stop what was begun for a job that somebody has ended; its slot is ours meanwhile."""
        ...


@dataclass(slots=True)
class Worker:
    """Takes jobs while `run` runs. `name` must be its own among all workers."""

    jobs: JobStore
    runners: Mapping[JobKind, Runner]
    clock: Clock
    learn: Callable[[Claim, float], Awaitable[None]]
    traces: JobTraces
    name: str = field(default_factory=lambda: new_name())
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)
    _leaving: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def busy(self) -> int:
        """How many jobs are at work here."""
        return len(self._tasks)

    async def run(self, stop: asyncio.Event) -> None:
        """Work until told to stop, then give back what is at work, for others to go on with."""
        try:
            await self._keep_claiming(stop)
        finally:
            # Not cancelled at once: what was claimed a moment ago or is being written would be
            # left to its lease, and nobody could go on before that has run out.
            self._leaving.set()
            if self._tasks:
                await asyncio.wait(self._tasks, timeout=LEAVE_S)
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _keep_claiming(self, stop: asyncio.Event) -> None:
        idle_s, nonce = IDLE_S, secrets.token_hex(8)
        while not stop.is_set():
            claim = None
            try:
                offers = [offer for runner in self.runners.values() for offer in runner.offers()]
                if offers:
                    claim = await self.jobs.claim(
                        self.name, offers, nonce=nonce, now=self.clock.now()
                    )
            except (RedisError, OSError) as error:
                _log.warning("claim_failed", error=str(error)[:200])
                await _first_of(self.clock.sleep(STORE_PAUSE_S), stop.wait())
                continue  # with the same nonce: what was claimed unheard is claimed again
            if claim is None:
                await _first_of(self.clock.sleep(idle_s), stop.wait())
                idle_s = min(idle_s * 1.5, LONGEST_IDLE_S)
                continue
            idle_s, nonce = IDLE_S, secrets.token_hex(8)
            task = asyncio.create_task(self._work(claim), name=f"job {claim.job.id}")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _work(self, claim: Claim) -> None:
        runner = self.runners[claim.job.kind]
        began = self.clock.monotonic()
        log = _log.bind(job=claim.job.id, fence=claim.fence, replica=claim.replica_id)
        with self.traces.cover(claim) as span:
            async with Hold(claim, self.jobs, self.clock) as hold:
                ended = await self._do(runner, hold, log)
                span.ended(ended)
                if ended == "cancelled":
                    await self._unless_leaving(runner.abandon(hold))
                    await self._persist(lambda: self._vacate(claim))
        took_s = self.clock.monotonic() - began
        log.info("job_left", how=ended, seconds=round(took_s, 3))
        if ended == "completed":
            await self._learn(claim, took_s)

    async def _do(self, runner: Runner, hold: Hold, log: Any) -> str:
        """Run the work and write down how it ended; give that in a word."""
        claim = hold.claim
        work = asyncio.ensure_future(runner.run(hold))
        waits = [asyncio.ensure_future(each.wait()) for each in (hold.over, self._leaving)]
        try:
            await asyncio.wait({work, *waits}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                work.cancel()
                await asyncio.wait({work})
            if work.cancelled() and hold.over.is_set():
                return "lost" if hold.standing is Standing.LOST else "cancelled"
            if work.cancelled():
                await self._give_back(hold, "its worker was told to leave")
                return "given back"
            done = work.result()  # also what was done by the time that the end was wanted
        except JobFailed as failed:
            return await self._end(hold, failed.error, failed.result)
        except TryAgain as again:
            return await self._return(hold, again)
        except asyncio.CancelledError:
            work.cancel()
            await asyncio.wait({work})
            raise
        except Exception as bug:
            log.error("job_bug", exc_info=bug)
            return await self._return(hold, TryAgain("the server had an error", delay_s=1.0))
        finally:
            for each in waits:
                each.cancel()
        written = await self._persist(
            lambda: self.jobs.complete(claim, done.result, now=self.clock.now())
        )
        if not written and hold.standing is not Standing.LOST:
            return "cancelled"
        return "completed" if written else "lost"

    async def _end(self, hold: Hold, error: JobError, result: Mapping[str, Any] | None) -> str:
        claim = hold.claim
        written = await self._persist(
            lambda: self.jobs.fail(claim, error, now=self.clock.now(), result=result)
        )
        return "failed" if written else "lost"

    async def _return(self, hold: Hold, again: TryAgain) -> str:
        status = await self._persist(
            lambda: self.jobs.release(
                hold.claim,
                again.counter,
                again.reason,
                now=self.clock.now(),
                delay_s=again.delay_s,
            )
        )
        if status is None:
            return "lost"
        return "failed" if status is JobStatus.FAILED else "returned"

    async def _learn(self, claim: Claim, took_s: float) -> None:
        try:
            await self.learn(claim, took_s)
        except (RedisError, OSError):
            pass  # a forecast has one example less

    async def _give_back(self, hold: Hold, reason: str) -> None:
        try:
            await self.jobs.release(
                hold.claim, Counter.NOTHING, reason, now=self.clock.now(), keep_replica=True
            )
        except (RedisError, OSError):
            pass  # its lease runs out

    async def _vacate(self, claim: Claim) -> None:
        await self.jobs.release(claim, Counter.NOTHING, "ended", now=self.clock.now())

    async def _unless_leaving(self, work: Coroutine[Any, Any, None]) -> None:
        """Do something that may take long, until this worker is told to leave."""
        task = asyncio.ensure_future(work)
        leaving = asyncio.ensure_future(self._leaving.wait())
        try:
            await asyncio.wait({task, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                task.result()
        finally:
            for each in (task, leaving):
                each.cancel()
            await asyncio.wait({task})

    async def _persist(self, write: Callable[[], Awaitable[Any]]) -> Any:
        """Repeat a write until the store has it: what was done must not be done again."""
        while True:
            try:
                return await write()
            except (RedisError, OSError) as error:
                _log.warning("end_not_written_yet", error=str(error)[:200])
                await self.clock.sleep(STORE_PAUSE_S)


def new_name() -> str:
    """Make a name that no other worker has."""
    return f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"


async def _first_of(*waits: Awaitable[Any]) -> None:
    tasks = [asyncio.ensure_future(each) for each in waits]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
