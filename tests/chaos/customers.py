"""Callers who create videos through whichever gateway answers, and remember what they were told."""

import asyncio
import contextlib
import random
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from tests.workers import VIDEO_MODEL

ENDED = {"completed", "failed"}


@dataclass
class Ledger:
    """What callers were told: accepted ids by their number, the ends seen, and contradictions."""

    accepted: dict[int, str] = field(default_factory=dict)
    ended: dict[str, str] = field(default_factory=dict)
    contradictions: list[str] = field(default_factory=list)
    refusals: int = 0
    accepted_under_kills: int = 0
    ended_under_kills: int = 0


class Customers:
    """`count` videos, `at_once` of them being created at a time."""

    def __init__(self, urls: list[str], count: int, at_once: int, seed: int) -> None:
        self.told = Ledger()
        self._urls = urls
        self._count = count
        self._at_once = at_once
        self._chance = random.Random(seed)

    async def see_all_through(self) -> None:
        """Create every video and look until each has ended; for ever, where one never does."""
        await self._create_all()
        async with _session() as session:
            while await self.look(session) < len(self.told.accepted):
                await asyncio.sleep(0.5)

    def note_peace(self) -> None:
        """Note how far it is: nobody is killed from now on."""
        self.told.accepted_under_kills = len(self.told.accepted)
        self.told.ended_under_kills = len(self.told.ended)

    def are_through(self, share: float) -> bool:
        """Whether all have been accepted and such a share is known to have ended."""
        told = self.told
        return len(told.accepted) >= self._count and len(told.ended) >= share * self._count

    async def _create_all(self) -> None:
        """Create every video; each is asked for until a gateway has said yes."""
        numbers = iter(range(self._count))
        async with _session() as session, asyncio.TaskGroup() as tasks:
            for _ in range(self._at_once):
                tasks.create_task(self._create_some(session, numbers))

    async def _create_some(self, session: aiohttp.ClientSession, numbers: Any) -> None:
        for number in numbers:
            body = {
                **{"model": VIDEO_MODEL, "prompt": f"video {number}", "size": "64x64"},
                **{"num_frames": 5, "num_inference_steps": 1, "seed": number},
            }
            headers = {"idempotency-key": f"video-{number}"}
            while True:
                found = await self._ask(session, "POST", "/v1/videos", json=body, headers=headers)
                if found is not None:
                    self._note(found)
                    known = self.told.accepted.setdefault(number, found["id"])
                    if known != found["id"]:
                        self.told.contradictions.append(f"{number}: {known} and {found['id']}")
                    break
                await asyncio.sleep(0.1)

    async def look_again(self, within_s: float) -> None:
        """Go through all videos once more, as far as the time allows."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s), _session() as session:
                await self.look(session)

    async def look(self, session: aiohttp.ClientSession) -> int:
        """Go through the list of all videos; gives how many have ended."""
        after, ended = "", 0
        while True:
            query = f"?limit=100&order=asc{after}"
            page = await self._ask(session, "GET", f"/v1/videos{query}")
            if page is None:
                await asyncio.sleep(0.2)
                continue
            for each in page["data"]:
                self._note(each)
                ended += each["status"] in ENDED
            if not page["has_more"]:
                return ended
            after = f"&after={page['last_id']}"

    def _note(self, video: dict[str, Any]) -> None:
        """Remember an end; whatever else is told of the same video later is a contradiction."""
        before, now = self.told.ended.get(video["id"]), video["status"]
        if before is not None and before != now:
            self.told.contradictions.append(f"{video['id']}: {before}, then {now}")
        elif now in ENDED:
            self.told.ended[video["id"]] = now

    async def _ask(
        self, session: aiohttp.ClientSession, method: str, path: str, **more: Any
    ) -> dict[str, Any] | None:
        url = self._chance.choice(self._urls)
        try:
            async with session.request(method, url + path, **more) as answer:
                if answer.status != 200:
                    self.told.refusals += 1
                    return None
                found: dict[str, Any] = await answer.json()
                return found
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError):
            return None


def _session() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        timeout=aiohttp.ClientTimeout(total=10.0),
        connector=aiohttp.TCPConnector(limit=0, force_close=True),
    )
