"""What waits, and by when: told by a gateway, read by the autoscaler."""

import pytest
from redis.asyncio import Redis

from backends import backlogs
from backends.backlogs import PREFIX, PoolBacklog
from backends.clock import SystemClock
from gateway.jobs.backlog import SUMMED_S, UNKNOWN_S, Backlogs
from gateway.jobs.model import JOBS, JobKind
from gateway.jobs.outlook import Outlook
from gateway.jobs.store import JobStore, Terms
from tests.gateway.jobs.test_job_store import NOW, claimed, new


async def test_videos_that_wait_are_told_by_their_deadlines(redis: Redis) -> None:
    jobs = JobStore(redis, Terms(lease_s=10.0, attempts=3, losses=3))
    teller = Backlogs(redis, Outlook(redis), SystemClock())
    for number, deadline in enumerate((60.0, 70.0, 600.0)):
        await jobs.submit(new(f"j{number}", deadline=NOW + deadline), now=NOW)
    await jobs.submit(new("b", kind=JobKind.BATCH), now=NOW)
    (found,) = await teller.take()
    first = NOW // SUMMED_S * SUMMED_S
    assert found.pool == "m"
    assert [work_s for _, work_s in found.due] == [2 * UNKNOWN_S, UNKNOWN_S]
    assert first < found.due[0][0] <= NOW + 70.0
    await redis.lpush(f"{JOBS}service:m", "5.0 20.0")
    await claimed(jobs, "r1")
    (found,) = await Backlogs(redis, Outlook(redis), SystemClock()).take()
    assert found.waiting_s == pytest.approx(40.0)


async def test_a_backlog_is_read_as_it_was_written(redis: Redis) -> None:
    told = PoolBacklog("m", 5.0, ((100.0, 30.0), (160.0, 12.5)))
    await backlogs.write(redis, [told])
    assert await backlogs.read(redis, ["m", "other"]) == {"m": told}
    await redis.set(PREFIX + "m", b'{"version": 99}')
    assert await backlogs.read(redis, ["m"]) == {}
