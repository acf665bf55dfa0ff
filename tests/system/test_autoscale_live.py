"""`sluice up --autoscale` under a load that rises and falls: replicas come in time, and leave
without cutting a stream.

Minutes, so only on request, with SLUICE_TEST_AUTOSCALE=1 in the environment.
"""

import asyncio
import os
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.system.rising_load import MODEL, RisingLoad
from tests.system.test_up import Starter, sluice, stop

pytestmark = [
    pytest.mark.system,
    pytest.mark.timeout(600),
    pytest.mark.skipif(
        not os.environ.get("SLUICE_TEST_AUTOSCALE"), reason="minutes; SLUICE_TEST_AUTOSCALE=1"
    ),
]


class Watch:
    """How many replicas are ready, once a second."""

    def __init__(self, admin_url: str, key: str) -> None:
        self._url = f"{admin_url}/admin/replicas"
        self._headers = {"authorization": f"Bearer {key}"}
        self.ready: list[int] = []

    async def run(self) -> None:
        async with aiohttp.ClientSession(headers=self._headers) as session:
            while True:
                async with session.get(self._url) as answer:
                    replicas = (await answer.json())["data"]
                mine = [r for r in replicas if r["model"] == MODEL]
                self.ready.append(sum(r["health"]["state"] == "ready" for r in mine))
                await asyncio.sleep(1.0)


async def _under_load(ready: dict[str, Any]) -> tuple[RisingLoad, Watch]:
    load = RisingLoad(ready["base_url"], ready["api_key"])
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
