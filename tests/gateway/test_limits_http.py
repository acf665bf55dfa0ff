"""What callers are told of their limits over HTTP."""

import asyncio
from typing import Any

import aiohttp

from backends.simulated.server import serve
from backends.simulated.settings import SimulatedSettings
from gateway.call import Quota
from gateway.keys import Grant
from tests.gateways import running_gateway

MODEL = "llama2-70b"


def body(max_tokens: int) -> dict[str, Any]:
    """Make a chat request."""
    messages = [{"role": "user", "content": "Say something."}]
    return {"model": MODEL, "messages": messages, "max_tokens": max_tokens, "ignore_eos": True}


async def test_limits_are_told_enforced_and_settled(redis_url: str) -> None:
    simulated = SimulatedSettings(model=MODEL, stream_interval=1)
    async with (
        serve(simulated) as urls,
        running_gateway(
            redis_url,
            {MODEL: urls},
            no_auth=False,
            tenants={"acme": {"requests_per_min": 3, "weight": 2.0}},
        ) as gateway,
        aiohttp.ClientSession() as client,
    ):
        quota = Quota(tokens_per_min=1000, tokens_per_day=1500)
        key, _ = await gateway.services.keys.create(Grant(tenant="acme", quota=quota))

        async def ask(max_tokens: int) -> tuple[int, dict[str, Any], dict[str, str]]:
            async with client.post(
                f"{gateway.url}/v1/chat/completions",
                json=body(max_tokens),
                headers={"authorization": f"Bearer {key}"},
            ) as answer:
                found: dict[str, Any] = await answer.json()
                return answer.status, found, {k.lower(): v for k, v in answer.headers.items()}

        status, first, lines = await ask(8)
        assert status == 200
        assert lines["x-ratelimit-limit-requests"] == "3"
        assert lines["x-ratelimit-remaining-requests"] == "2"
        assert lines["x-ratelimit-limit-tokens"] == "1000"
        used = first["usage"]["total_tokens"]

        status, _, lines = await ask(8)
        left = int(lines["x-ratelimit-remaining-tokens"])
        assert 1000 - 2 * used - 200 <= left < 1000 - used
        assert (await ask(8))[0] == 200

        status, refused, lines = await ask(8)
        assert status == 429
        assert refused["error"]["code"] == "rate_limit_exceeded"
        assert 50 <= int(lines["retry-after"]) <= 61
        assert lines["x-ratelimit-remaining-requests"] == "0"
        assert "x-should-retry" not in lines

        other, _ = await gateway.services.keys.create(
            Grant(tenant="else", quota=Quota(tokens_per_day=1))
        )
        key = other
        status, spent, lines = await ask(8)
        assert (status, spent["error"]["code"]) == (429, "insufficient_quota")
        assert lines["x-should-retry"] == "false"
        await asyncio.sleep(0)
        assert not any(gateway.leftovers().values())
