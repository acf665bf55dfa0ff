"""`sluice up --autoscale` under a load that rises and falls: replicas come in time, and leave
without cutting a stream.

Minutes, so only on request, with SLUICE_TEST_AUTOSCALE=1 in the environment.
"""

import asyncio
import json
import os
import random
import time
from collections import Counter
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.system.test_up import Starter, sluice, stop

MODEL = "llama2-70b"
# Calls per second, and for how many seconds.
COURSE = (*((10.0 + step, 12.0) for step in range(0, 81, 8)), (90.0, 20.0), (8.0, 90.0))
LIMIT_S = 0.45  # of the first token, in the class that is called

pytestmark = [
    pytest.mark.system,
    pytest.mark.timeout(600),
    pytest.mark.skipif(
        not os.environ.get("SLUICE_TEST_AUTOSCALE"), reason="minutes; SLUICE_TEST_AUTOSCALE=1"
    ),
]


class Load:
    """Open-loop streams of chat, each due at its instant whatever becomes of the others."""

    def __init__(self, base_url: str, key: str) -> None:
        self._url = f"{base_url}/chat/completions"
        self._headers = {"authorization": f"Bearer {key}"}
        self.outcomes: Counter[str] = Counter()
        self.missed = 0
        self._number = 0

    async def run(self) -> None:
        dice = random.Random(7)
        connector = aiohttp.TCPConnector(limit=0)
        async with (
            aiohttp.ClientSession(headers=self._headers, connector=connector) as session,
            asyncio.TaskGroup() as group,
        ):
            due = time.monotonic()
            for per_s, seconds in COURSE:
                until = due + seconds
                while due < until:
                    await asyncio.sleep(max(0.0, due - time.monotonic()))
                    group.create_task(self._call(session, dice.randint(60, 500)))
                    due += dice.expovariate(per_s)

    async def _call(self, session: aiohttp.ClientSession, tokens: int) -> None:
        self._number += 1  # so that no prefix is cached
        body = {
            "model": MODEL,
            "messages": [{"role": "user", "content": f"{self._number} " + "word " * 200}],
            "max_tokens": tokens,
            "ignore_eos": True,
            "service_tier": "priority",
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        began = time.monotonic()
        async with session.post(self._url, json=body) as answer:
            if answer.status != 200:
                self.outcomes[f"refused ({answer.status})"] += 1
                return
            first = None
            counted, done = 0, False
            async for line in answer.content:
                if first is None and line.startswith(b"data: {"):
                    first = time.monotonic() - began
                if b'"usage":{' in line:
                    counted = json.loads(line[6:])["usage"]["completion_tokens"]
                done = done or line.startswith(b"data: [DONE]")
        self.outcomes["whole" if done and counted == tokens else "cut"] += 1
        self.missed += first is None or first > LIMIT_S


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


async def _under_load(ready: dict[str, Any]) -> tuple[Load, Watch]:
    load = Load(ready["base_url"], ready["api_key"])
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
