"""Exactly one end for each job, whatever comes twice, late or never."""

import random
import secrets
from typing import Any

import pytest
from redis.asyncio import Redis

from gateway.jobs.model import (
    Claim,
    Counter,
    JobError,
    JobKind,
    JobStatus,
    NewJob,
    Offer,
    Once,
    Quota,
    Standing,
    Taken,
)
from gateway.jobs.store import JobStore, Terms

NOW = 1_800_000_000.0
LEASE_S = 10.0
CLASSES = ("interactive", "server", "offline")


@pytest.fixture
def jobs(redis: Redis) -> JobStore:
    return JobStore(redis, Terms(lease_s=LEASE_S, attempts=3, losses=3))


def new(job_id: str, **more: Any) -> NewJob:
    """Describe a job."""
    return NewJob(
        **{
            "id": job_id,
            "kind": JobKind.VIDEO,
            "tenant": "a",
            "pool": "m",
            "class_name": "server",
            "rank": 1,
            "payload": {"x": 1},
            "units": 5.0,
            "deadline": NOW + 1000,
            "ttl_s": 60.0,
            **more,
        }
    )


async def claim(
    jobs: JobStore, *replicas: str, worker: str = "w", nonce: str = "", at: float = 0.0
) -> Claim | None:
    """Claim on these replicas; on none of them: a job that needs none."""
    offer = Offer("m", CLASSES, replicas or None)
    return await jobs.claim(worker, [offer], nonce=nonce or secrets.token_hex(4), now=NOW + at)


async def claimed(jobs: JobStore, *replicas: str, **more: Any) -> Claim:
    """Claim, where there must be something."""
    found = await claim(jobs, *replicas, **more)
    assert found is not None
    return found


async def status(jobs: JobStore, job_id: str) -> JobStatus:
    """Look a job's status up."""
    found = await jobs.find(job_id)
    assert found is not None
    return found.status


async def test_classes_are_served_by_rank_and_first_come_first_served_within(
    jobs: JobStore,
) -> None:
    for number, (name, rank) in enumerate([("offline", 2), ("server", 1), ("interactive", 0)] * 2):
        await jobs.submit(new(f"j{number}", class_name=name, rank=rank), now=NOW + number)
    order = [(await claimed(jobs)).job.id for _ in range(6)]
    assert order == ["j2", "j5", "j1", "j4", "j0", "j3"]
    assert await claim(jobs) is None


async def test_one_job_holds_a_replica_at_a_time(jobs: JobStore) -> None:
    for number in range(3):
        await jobs.submit(new(f"j{number}"), now=NOW)
    first, second = await claimed(jobs, "r1", "r2"), await claimed(jobs, "r1", "r2")
    assert {first.replica_id, second.replica_id} == {"r1", "r2"}
    assert await claim(jobs, "r1", "r2") is None
    assert await jobs.complete(first, {}, now=NOW)
    assert (await claimed(jobs, "r1", "r2")).replica_id == first.replica_id


async def test_a_claim_that_is_repeated_gives_the_same_job(jobs: JobStore) -> None:
    for number in range(2):
        await jobs.submit(new(f"j{number}"), now=NOW)
    first = await claimed(jobs, nonce="n")
    again = await claimed(jobs, nonce="n")
    assert (first.job.id, first.fence) == (again.job.id, again.fence)
    assert (await claimed(jobs)).job.id != first.job.id


async def test_a_worker_that_was_given_up_cannot_end_what_another_has(jobs: JobStore) -> None:
    await jobs.submit(new("j"), now=NOW)
    old = await claimed(jobs, "r1", worker="old")
    assert await jobs.beat(old, now=NOW, started=True, engine="video:e") is Standing.OK
    await jobs.tick(now=NOW + 1)
    assert (await jobs.tick(now=NOW + 1.5)).lost == 0
    for second in range(2, 12):  # somebody ticks all the time: no silence
        await jobs.tick(now=NOW + second)
    fresh = await claimed(jobs, "r1", "r2", worker="new", at=12)
    assert fresh.replica_id == "r1", "it goes back to where its work is"
    assert fresh.job.engine == "video:e"
    assert fresh.fence > old.fence
    assert await jobs.beat(old, now=NOW + 12) is Standing.LOST
    assert not await jobs.complete(old, {"by": "old"}, now=NOW + 12)
    assert await jobs.release(old, Counter.ATTEMPTS, "x", now=NOW + 12) is None
    assert await jobs.complete(fresh, {"by": "new"}, now=NOW + 13)
    found = await jobs.find("j")
    assert found is not None
    assert (found.status, found.result, found.ends) == (JobStatus.COMPLETED, {"by": "new"}, 1)


async def test_an_end_that_is_repeated_is_one_end(jobs: JobStore) -> None:
    await jobs.submit(new("j"), now=NOW)
    found = await claimed(jobs)
    assert await jobs.complete(found, {"a": 1}, now=NOW)
    assert await jobs.complete(found, {"a": 1}, now=NOW + 1)
    assert not await jobs.complete(found, {"a": 2}, now=NOW + 1)
    assert not await jobs.fail(found, JobError("x", "y"), now=NOW + 1)
    job = await jobs.find("j")
    assert job is not None
    assert (job.ends, job.ended_at, job.result) == (1, NOW, {"a": 1})


async def test_after_a_silence_nobody_is_given_up_before_it_could_speak(jobs: JobStore) -> None:
    await jobs.submit(new("j"), now=NOW)
    await jobs.tick(now=NOW)
    held = await claimed(jobs, "r1")
    assert (await jobs.tick(now=NOW + 500)).lost == 0
    assert await jobs.beat(held, now=NOW + 501) is Standing.OK


async def test_a_job_that_fails_too_often_ends_and_is_buried(jobs: JobStore) -> None:
    await jobs.submit(new("j"), now=NOW)
    found = None
    for number in range(3):
        held = await claimed(jobs, "r1", at=number)
        found = await jobs.release(held, Counter.ATTEMPTS, f"try {number}", now=NOW + number)
    assert found is JobStatus.FAILED
    job = await jobs.find("j")
    assert job is not None
    assert job.error == JobError("generation_failed", "try 2")
    assert [each.split(" ", 1)[1] for each in await jobs.reasons("j")] == [
        "try 0",
        "try 1",
        "try 2",
    ]
    assert [each["job"] for each in await jobs.dead()] == ["j"]
    await jobs.submit(new("k"), now=NOW)
    assert (await claimed(jobs, "r1")).job.id == "k", "its slot is free"


async def test_a_pause_is_kept(jobs: JobStore) -> None:
    await jobs.submit(new("j"), now=NOW)
    held = await claimed(jobs)
    await jobs.release(held, Counter.ATTEMPTS, "x", now=NOW, delay_s=3.0)
    assert await claim(jobs) is None
    await jobs.tick(now=NOW + 2)
    assert await claim(jobs) is None
    await jobs.tick(now=NOW + 3.5)
    assert (await claimed(jobs)).job.id == "j"


async def test_cancelling_ends_a_job_in_every_state(jobs: JobStore) -> None:
    await jobs.submit(new("waiting"), now=NOW)
    assert await jobs.cancel("waiting", now=NOW) is JobStatus.QUEUED
    assert await claim(jobs, "r1") is None
    await jobs.submit(new("running"), now=NOW)
    held = await claimed(jobs, "r1")
    await jobs.beat(held, now=NOW, started=True)
    assert await jobs.cancel("running", now=NOW) is JobStatus.IN_PROGRESS
    assert await jobs.beat(held, now=NOW) is Standing.ENDED
    await jobs.submit(new("next"), now=NOW)
    assert await claim(jobs, "r1") is None, "the replica is still busy with it"
    assert not await jobs.complete(held, {}, now=NOW)
    assert (await claimed(jobs, "r1")).job.id == "next"
    await jobs.submit(new("paused"), now=NOW)
    held = await claimed(jobs, "r2")
    await jobs.release(held, Counter.ATTEMPTS, "x", now=NOW, delay_s=60)
    await jobs.cancel("paused", now=NOW)
    for job_id in ("waiting", "running", "paused"):
        assert await status(jobs, job_id) is JobStatus.FAILED
        assert await jobs.cancel(job_id, now=NOW) is JobStatus.FAILED
    assert await jobs.cancel("never", now=NOW) is None


async def test_the_slot_of_a_cancelled_job_whose_worker_died_comes_free(jobs: JobStore) -> None:
    await jobs.submit(new("j"), now=NOW)
    await claimed(jobs, "r1")
    await jobs.cancel("j", now=NOW)
    await jobs.submit(new("k"), now=NOW)
    for second in range(12):
        await jobs.tick(now=NOW + second)
    assert (await claimed(jobs, "r1", at=12)).job.id == "k"


async def test_a_deadline_ends_what_waits_and_what_runs(jobs: JobStore) -> None:
    for job_id in ("running", "waiting"):
        await jobs.submit(new(job_id, deadline=NOW + 5), now=NOW)
    held = await claimed(jobs, "r1")
    await jobs.tick(now=NOW + 4)
    assert await status(jobs, "waiting") is JobStatus.QUEUED
    assert (await jobs.tick(now=NOW + 6)).late == 2
    for job_id in ("running", "waiting"):
        job = await jobs.find(job_id)
        assert job is not None
        assert job.error is not None
        assert job.error.code == "deadline_exceeded"
    assert await jobs.beat(held, now=NOW + 6) is Standing.ENDED


async def test_a_job_moves_on_when_its_replica_has_left(jobs: JobStore) -> None:
    await jobs.submit(new("j"), now=NOW)
    await claimed(jobs, "gone")
    for second in range(12):
        await jobs.tick(now=NOW + second)
    moved = await claimed(jobs, "r2", at=12)
    assert (moved.replica_id, moved.job.engine) == ("r2", None)
    await jobs.submit(new("k"), now=NOW)
    assert (await claimed(jobs, "gone", at=12)).job.id == "k", "the slot there is free"


async def test_creation_is_recognised_by_its_key(jobs: JobStore) -> None:
    once = Once("sluice:test:k", "digest", 60)
    first = await jobs.submit(new("a", idempotency=once), now=NOW)
    again = await jobs.submit(new("b", idempotency=once), now=NOW)
    other = Once("sluice:test:k", "another", 60)
    third = await jobs.submit(new("c", idempotency=other), now=NOW)
    assert (first.taken, first.job_id) == (Taken.MADE, "a")
    assert (again.taken, again.job_id) == (Taken.REPLAYED, "a")
    assert third.taken is Taken.CONFLICT
    assert (await jobs.submit(new("a", idempotency=once), now=NOW)).taken is Taken.MADE
    assert await jobs.redis.zcard("sluice:jobs:waiting:m") == 1


async def test_a_quota_is_spent_once_and_given_back_for_what_never_ran(jobs: JobStore) -> None:
    def quota() -> Quota:
        return Quota("sluice:test:q", 5.0, 10.0, 60)

    assert (await jobs.submit(new("a", quota=quota()), now=NOW)).taken is Taken.MADE
    assert (await jobs.submit(new("a", quota=quota()), now=NOW)).taken is Taken.MADE
    assert (await jobs.submit(new("b", quota=quota()), now=NOW)).taken is Taken.MADE
    assert (await jobs.submit(new("c", quota=quota()), now=NOW)).taken is Taken.QUOTA
    await jobs.cancel("a", now=NOW)
    await jobs.cancel("a", now=NOW)
    assert (await jobs.submit(new("c", quota=quota()), now=NOW)).taken is Taken.MADE
    assert (await jobs.submit(new("d", quota=quota()), now=NOW)).taken is Taken.QUOTA


class Chaos:
    """Workers that claim, beat, finish, fail, fall silent and repeat themselves, at random."""

    def __init__(self, jobs: JobStore, seed: int, total: int) -> None:
        self.now = NOW
        self.ended_by: dict[str, set[int]] = {}
        self._jobs = jobs
        self._total = total
        self._chance = random.Random(seed)
        self._held: list[Claim] = []
        self._offer = Offer("m", CLASSES, ("r1", "r2", "r3"))

    async def act(self) -> None:
        """Do one thing."""
        self.now += self._chance.expovariate(2.0)
        acts = (self._claim, self._beat, self._complete, self._release, self._cancel, self._tick)
        await self._chance.choices(acts, (35, 20, 15, 5, 3, 22))[0]()

    async def finish(self) -> None:
        """Work in peace until nothing is left."""
        while await self._jobs.redis.exists("sluice:jobs:live"):
            self.now += 1.0
            await self._tick()
            nonce = secrets.token_hex(6)
            last = await self._jobs.claim("last", [self._offer], nonce=nonce, now=self.now)
            if last is not None:
                await self._end(last)

    async def _claim(self) -> None:
        nonce, worker = secrets.token_hex(4), f"w{self._chance.randrange(3)}"
        for _ in range(self._chance.choice((1, 1, 2))):
            found = await self._jobs.claim(worker, [self._offer], nonce=nonce, now=self.now)
            if found is not None:
                self._held.append(found)

    async def _beat(self) -> None:
        if self._held:
            held = self._chance.choice(self._held)
            await self._jobs.beat(held, now=self.now, started=True, progress=50)

    async def _complete(self) -> None:
        if self._held:
            held = self._chance.choice(self._held)
            for _ in range(self._chance.choice((1, 2))):
                await self._end(held)

    async def _end(self, held: Claim) -> None:
        if await self._jobs.complete(held, {"fence": held.fence}, now=self.now):
            self.ended_by.setdefault(held.job.id, set()).add(held.fence)

    async def _release(self) -> None:
        if self._held:
            held = self._chance.choice(self._held)
            await self._jobs.release(held, Counter.NOTHING, "x", now=self.now)

    async def _cancel(self) -> None:
        job_id = f"j{self._chance.randrange(self._total)}"
        before = await self._jobs.cancel(job_id, now=self.now)
        if before in (JobStatus.QUEUED, JobStatus.IN_PROGRESS):
            self.ended_by.setdefault(job_id, set()).add(-1)

    async def _tick(self) -> None:
        await self._jobs.tick(now=self.now)


@pytest.mark.parametrize("seed", range(4))
async def test_any_interleaving_ends_every_job_exactly_once(jobs: JobStore, seed: int) -> None:
    total = 25
    for number in range(total):
        await jobs.submit(new(f"j{number}", deadline=NOW + 100_000), now=NOW)
    chaos = Chaos(jobs, seed, total)
    for _ in range(600):
        await chaos.act()
    await chaos.finish()
    found = await jobs.find_all(f"j{number}" for number in range(total))
    assert all(job.has_ended and job.ends == 1 for job in found)
    lost = {job.id for job in found if job.error and job.error.code == "worker_lost"}
    assert {job.id for job in found} == set(chaos.ended_by) | lost
    assert all(len(by) == 1 for by in chaos.ended_by.values())
    await jobs.tick(now=chaos.now + 100)
    await jobs.tick(now=chaos.now + 101)
    for second in range(102, 120):
        await jobs.tick(now=chaos.now + second)
    for key in ("slots", "leases", "live", "delayed", "deadlines", "waiting:m"):
        assert not await jobs.redis.exists(f"sluice:jobs:{key}"), key
