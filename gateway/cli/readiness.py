"""When can calls go to the replicas of a gateway that has just begun?"""

import asyncio
from collections import Counter
from collections.abc import Callable, Collection, Mapping
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
    least: Mapping[str, int] | None = None,
    within_s: float = OWN_WITHIN_S,
) -> tuple[str, ...]:
    """Wait until our own replicas are ready and others' were probed; give the models served.

    `least`: of these models so many, whichever they are. Raises CommandFailed when one of our own
    does not become ready `within_s`.
    """
    began = clock.monotonic()
    headers = {"authorization": f"Bearer {admin_key}"}
    async with aiohttp.ClientSession(headers=headers) as session:
        while True:
            replicas = await _replicas(session, admin_url)
            waited_s = clock.monotonic() - began
            states = {each["url"]: each["health"]["state"] for each in replicas}
            missing = [url for url in own_urls if states.get(url) != "ready"]
            ready = Counter(r["model"] for r in replicas if r["health"]["state"] == "ready")
            missing += [f"{n} of {model}" for model, n in (least or {}).items() if ready[model] < n]
            unknown = [url for url, state in states.items() if state == "unknown"]
            if not missing and (not unknown or waited_s > OTHERS_WITHIN_S):
                break
            if missing and waited_s > within_s:
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
