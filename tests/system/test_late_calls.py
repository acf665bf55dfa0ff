"""What becomes of calls whose slot comes too late, as their class says: over real processes."""

import asyncio
from pathlib import Path

import aiohttp
import pytest

from tests.system.processes import StoreProcess, gateway_process, simulated_replica

pytestmark = [pytest.mark.system, pytest.mark.xdist_group("late"), pytest.mark.timeout(120)]

MODEL = "llama2-70b"
CALLS, TOKENS, ROUNDS = 8, 60, 6
TTFT_MS = 1200.0


async def burst(base_url: str) -> list[tuple[int, str | None, str | None]]:
    """Send calls at once, of which one runs at a time; give status, lateness and error code."""

    async def one(client: aiohttp.ClientSession) -> tuple[int, str | None, str | None]:
        body = {
            "model": MODEL,
            "messages": [{"role": "user", "content": "Hello"}],
            "max_tokens": TOKENS,
            "ignore_eos": True,
            "stream": True,
        }
        async with client.post(f"{base_url}/chat/completions", json=body) as answer:
            found = await answer.read()
            code = None
            if answer.status == 200:
                assert found.endswith(b"data: [DONE]\n\n")
            else:
                code = (await answer.json())["error"]["code"]
            return answer.status, answer.headers.get("x-sluice-late-ms"), code

    async with aiohttp.ClientSession() as client:
        return await asyncio.gather(*(one(client) for _ in range(CALLS)))


def wait_until_ready(base_url: str) -> None:
    """Return once the gateway knows its replica."""

    async def ready() -> None:
        async with aiohttp.ClientSession() as client:
            while True:
                async with client.get(f"{base_url.removesuffix('/v1')}/readyz") as answer:
                    if answer.status == 200:
                        return
                await asyncio.sleep(0.02)

    asyncio.run(asyncio.wait_for(ready(), 60.0))


@pytest.mark.parametrize("when_late", ["refuse", "serve"])
def test_a_late_call_is_refused_or_served_as_its_class_says(when_late: str, tmp_path: Path) -> None:
    server = {
        "when_late": when_late,
        "patience_s": 90,
        "targets": {"default": {"ttft_ms": TTFT_MS, "tpot_ms": 200}},
    }
    store = StoreProcess(tmp_path)
    try:
        with (
            simulated_replica(tmp_path, "replica") as replica,
            gateway_process(
                tmp_path, store.url, [replica.url], max_running=1, classes={"server": server}
            ) as (_, base_url),
        ):
            wait_until_ready(base_url)
            found: list[tuple[int, str | None, str | None]] = []
            for _ in range(ROUNDS):  # it takes some calls to know how fast the replica is
                found += asyncio.run(burst(base_url))
                if any(late is not None or status == 429 for status, late, _ in found):
                    break
    finally:
        store.close()
    late = [each for _, each, _ in found if each is not None]
    codes = {code for status, _, code in found if status == 429}
    if when_late == "serve":
        assert {status for status, _, _ in found} == {200}
        assert max(float(each) for each in late) > 0
    else:
        assert late == []
        assert codes
        assert codes <= {"wait_too_long", "deadline_passed", "slot_too_late", "ttft_out_of_reach"}
