"""Calls that rise to more than one replica carries and fall again, each timed from its schedule."""

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import Sequence

import aiohttp

MODEL = "llama2-70b"
# Calls per second, and for how many seconds.
COURSE = (*((10.0 + step, 12.0) for step in range(0, 81, 8)), (90.0, 20.0), (8.0, 90.0))
LIMIT_S = 0.45  # of the first token, in the class that is called


class RisingLoad:
    """Open-loop streams of chat, each due at its instant whatever becomes of the others."""

    def __init__(
        self, base_url: str, key: str, course: Sequence[tuple[float, float]] = COURSE
    ) -> None:
        self._course = course
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
            for per_s, seconds in self._course:
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
