"""When can calls go to the replicas of a gateway that has just begun?"""

import asyncio
from collections.abc import Callable, Collection
from typing import Any

import aiohttp

from backends.clock import Clock
from gateway.cli.failure import CommandFailed

OWN_WITHIN_S = 60.0
OTHERS_WITHIN_S = 10.0
LOOK_EVERY_S = 0.05


async def until_ready(
    admin_url: str,
    admin_key: str,
    own_urls: Collection[str],
    *,
    say: Callable[[str], None],
    clock: Clock,
) -> tuple[str, ...]:
    """Wait until our own replicas are ready and others' were probed; give the models served.

    Raises CommandFailed when one of our own does not become ready.
    """
    began = clock.monotonic()
    headers = {"authorization": f"Bearer {admin_key}"}
    async with aiohttp.ClientSession(headers=headers) as session:
        while True:
            replicas = await _replicas(session, admin_url)
            waited_s = clock.monotonic() - began
            states = {each["url"]: each["health"]["state"] for each in replicas}
            missing = [url for url in own_urls if states.get(url) != "ready"]
            unknown = [url for url, state in states.items() if state == "unknown"]
            if not missing and (not unknown or waited_s > OTHERS_WITHIN_S):
                break
            if missing and waited_s > OWN_WITHIN_S:
                raise CommandFailed(f"the gateway does not find {', '.join(missing)} ready")
            await clock.sleep(LOOK_EVERY_S)
    for each in replicas:
        if each["health"]["state"] != "ready":
            say(f"{each['model']} at {each['url']}: {_why(each['health'])}")
    return tuple(sorted({each["model"] for each in replicas}))


async def _replicas(session: aiohttp.ClientSession, admin_url: str) -> list[dict[str, Any]]:
    try:
        async with session.get(f"{admin_url}/admin/replicas") as answer:
            if answer.status == 200:
                return list((await answer.json())["data"])
    except (aiohttp.ClientError, TimeoutError, OSError):
        pass  # it has just begun to listen
    await asyncio.sleep(0)
    return []


def _why(health: dict[str, Any]) -> str:
    return f"{health['state']}, {health['reason']}" if health["reason"] else str(health["state"])
