"""The short form of the chaos run, and that a run ends whatever its processes do."""

import asyncio
import sys
from functools import partial
from pathlib import Path

import pytest

from tests.chaos.customers import Customers
from tests.chaos.processes import Mortal, StoreProcess
from tests.chaos.run import Plan, run
from tests.chaos.terror import Terror, endure

DEAF = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("deaf", flush=True)
time.sleep(600)
"""

pytestmark = pytest.mark.system


# The plan's own bounds add up to less, so that a run on a busy machine prints its table.
@pytest.mark.timeout(420)
async def test_random_kills_lose_nothing_and_end_nothing_twice(tmp_path: Path) -> None:
    plan = Plan(
        jobs=150,
        workers=2,
        replicas=3,
        at_once=12,
        kill_every_s=1.5,
        start_within_s=60,
        kills_within_s=120,
        end_within_s=120,
        lease_s=3,
    )
    found = await run(plan, tmp_path)
    print(found.table())
    assert found.accepted == 150
    assert (found.lost, found.ended_twice) == (0, 0), found
    assert (found.artifacts_without_record, found.records_without_artifact) == (0, 0), found
    assert found.completed == 150


@pytest.mark.timeout(60)
async def test_a_process_that_heeds_nothing_and_never_serves_is_ended(tmp_path: Path) -> None:
    log = tmp_path / "deaf.log"
    # Nothing listens on port 1, so that it is never ready, either.
    deaf = Mortal("deaf", (sys.executable, "-c", DEAF), log, {}, port=1)
    deaf.start()
    while not log.exists() or "deaf" not in log.read_text():
        await asyncio.sleep(0.05)
    assert not deaf.kill()
    await deaf.end(grace_s=0.1)
    assert not deaf.is_alive


@pytest.mark.timeout(60)
async def test_a_process_that_ends_as_it_is_being_started_stays_dead(tmp_path: Path) -> None:
    deaf = Mortal("deaf", (sys.executable, "-c", DEAF), tmp_path / "deaf.log", {}, port=1)
    deaf.start()
    await asyncio.sleep(0)  # there is no process yet, though it has been asked for
    await deaf.end(grace_s=0.1)
    assert not deaf.is_alive


@pytest.mark.timeout(60)
async def test_work_that_never_ends_is_given_up() -> None:
    nobody = Customers(["http://127.0.0.1:1"], count=3, at_once=2, seed=1)
    killed = []

    async def terror() -> None:
        while True:
            killed.append("somebody")
            await asyncio.sleep(0.01)

    await endure(nobody.see_all_through(), terror(), terror_within_s=0.2, peace_within_s=0.2)
    await nobody.look_again(within_s=0.1)
    assert nobody.told.accepted == {}
    assert killed


async def test_terror_that_breaks_is_not_taken_for_peace() -> None:
    async def terror() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await endure(asyncio.sleep(600), terror(), terror_within_s=600.0, peace_within_s=600.0)


@pytest.mark.timeout(60)
async def test_terror_lasts_until_enough_have_ended_and_work_goes_on_in_peace() -> None:
    someone, told = Mortal("nobody", (), Path("none"), {}, port=1), []
    terror = Terror([someone], [someone], StoreProcess(Path("none")), 0.001, 0.0, seed=1)
    ended = asyncio.Event()

    async def work() -> None:
        await ended.wait()
        await asyncio.sleep(0.01)
        told.append("done in peace")

    def enough() -> bool:
        told.append("looked")
        if told.count("looked") == 5:
            ended.set()
        return ended.is_set()

    at_peace = partial(told.append, "peace")
    await endure(
        work(), terror.reign(enough), terror_within_s=600.0, peace_within_s=600.0, at_peace=at_peace
    )
    assert told == ["looked"] * 5 + ["peace", "done in peace"]
    assert (terror.times, terror.span_s(0.0)) == ([], (0.0, 0.0))  # there was nobody to kill
