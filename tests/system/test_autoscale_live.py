"""`sluice up --autoscale` under a load that rises and falls: replicas come in time, and leave
without cutting a stream.

Minutes, so only on request, with SLUICE_TEST_AUTOSCALE=1 in the environment.
"""

import asyncio
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.system.rising_load import COURSE, MODEL, RisingLoad
from tests.system.test_up import Starter, sluice, stop

pytestmark = [
    pytest.mark.system,
    pytest.mark.timeout(600),
    pytest.mark.skipif(
        not os.environ.get("SLUICE_TEST_AUTOSCALE"), reason="minutes; SLUICE_TEST_AUTOSCALE=1"
    ),
]


# In seconds, as calls per second: shorter, for replicas that are slower each and thus more.
SHORT = ((10.0, 15.0), (30.0, 20.0), (50.0, 50.0), (6.0, 75.0))
# Two of the newer kind at the most, so that the older one has to help; it is dearer for its worth.
TWO_KINDS = """
actuator: process
tick_s: 1
port: 0
pools:
  - model: llama2-70b
    policy: {up_area_s: 0.3, down_area_s: 15.0, idle_s: 60.0, most: 6}
    kinds:
      - {name: new, hardware: mi355x, cost: 1.0, most: 2, cold_start_s: 10, actuation: {load_s: 10}}
      - {name: old, hardware: mi325x, cost: 0.4, most: 6, cold_start_s: 10, actuation: {load_s: 10}}
"""


class Watch:
    """How many replicas are ready, once a second, of all kinds of hardware and of each."""

    def __init__(self, admin_url: str, key: str) -> None:
        self._url = f"{admin_url}/admin/replicas"
        self._headers = {"authorization": f"Bearer {key}"}
        self.ready: list[int] = []
        self.kinds: list[Counter[str]] = []

    async def run(self) -> None:
        async with aiohttp.ClientSession(headers=self._headers) as session:
            while True:
                async with session.get(self._url) as answer:
                    replicas = (await answer.json())["data"]
                mine = [r for r in replicas if r["model"] == MODEL]
                ready = [r["hardware"] for r in mine if r["health"]["state"] == "ready"]
                self.ready.append(len(ready))
                self.kinds.append(Counter(ready))
                await asyncio.sleep(1.0)


async def _under_load(
    ready: dict[str, Any], course: Sequence[tuple[float, float]] = COURSE
) -> tuple[RisingLoad, Watch]:
    load = RisingLoad(ready["base_url"], ready["api_key"], course)
    watch = Watch(ready["admin_url"], ready["admin_key"])
    watching = asyncio.create_task(watch.run())
    try:
        await load.run()
    finally:
        watching.cancel()
    return load, watch


def test_replicas_come_with_the_load_and_leave_without_cutting_a_stream(tmp_path: Path) -> None:
    starter = Starter(tmp_path)
    up = starter("--engine", "simulated", "--autoscale", "--no-video")
    try:
        load, watch = asyncio.run(_under_load(up.ready()))
        asked = ("--data-dir", str(up.data), "--pool", MODEL, "--count", "40")
        told = sluice("autoscaler", "explain", *asked).stdout
    finally:
        stop(up)
    offered = sum(load.outcomes.values())
    print(f"\n{offered} calls: {dict(load.outcomes)}, {load.missed} first tokens late")
    print("ready replicas, every 10 s:", watch.ready[::10])
    print(told)
    assert load.outcomes["cut"] == 0
    assert load.outcomes["whole"] - load.missed >= 0.97 * offered
    assert max(watch.ready) >= 3
    assert watch.ready[-1] < max(watch.ready)
    assert "start" in told
    assert "drain" in told


def test_another_kind_of_hardware_helps_where_the_first_is_full_and_leaves_first(
    tmp_path: Path,
) -> None:
    starter = Starter(tmp_path)
    file = tmp_path / "fleet.yaml"
    file.write_text(TWO_KINDS, encoding="utf-8")
    up = starter("--engine", "simulated", "--autoscale", str(file), "--no-video")
    try:
        load, watch = asyncio.run(_under_load(up.ready(), SHORT))
        asked = ("--data-dir", str(up.data), "--pool", MODEL, "--count", "40")
        told = sluice("autoscaler", "explain", *asked).stdout
    finally:
        stop(up)
    offered = sum(load.outcomes.values())
    print(f"\n{offered} calls: {dict(load.outcomes)}, {load.missed} first tokens late")
    print("ready replicas, every 10 s:", [dict(each) for each in watch.kinds[::10]])
    print(told)
    assert load.outcomes["cut"] == 0
    most = Counter[str]()
    for each in watch.kinds:
        most |= each
    assert most["mi355x"] == 2
    assert most["mi325x"] >= 1
    assert watch.kinds[-1]["mi325x"] < most["mi325x"]
    assert "all 2 are there" in told
    assert "the dearest for its worth ends first" in told
