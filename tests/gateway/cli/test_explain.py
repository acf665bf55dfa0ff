"""`sluice explain ID` tells a routed, a waited, a demoted, a shed, a retried and a hung-up call."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
import uvicorn

from backends.simulated.server import serve_replicas
from backends.simulated.settings import Faults, SimulatedSettings
from gateway.api.admin import admin_app
from gateway.api.explanations import explanation_routes
from gateway.api.health import router as probes
from gateway.cli import explain
from tests.gateways import RunningGateway, running_gateway, until

MODEL, OTHER = "llama2-70b", "other"
KEY = "the-admin-key"
CLASSES = {
    "interactive": {"demote_to": "offline", "patience_s": 0.2},
    "server": {"patience_s": 0.2},
}


@asynccontextmanager
async def administered(redis_url: str) -> AsyncIterator[tuple[RunningGateway, str]]:
    """A gateway with one slot for MODEL and a failing replica of OTHER, and its admin URL."""
    async with (
        serve_replicas(SimulatedSettings(model=MODEL)) as one,
        serve_replicas(SimulatedSettings(model=OTHER, faults=Faults(fail_rate=1.0))) as bad,
        serve_replicas(SimulatedSettings(model=OTHER)) as good,
        running_gateway(
            redis_url,
            {MODEL: [one[0].url], OTHER: [bad[0].url, good[0].url]},
            max_running=1,
            classes=CLASSES,
            admin_key=KEY,
        ) as gateway,
    ):
        services = gateway.services
        app = admin_app(services, probes=probes, more=[explanation_routes(services.explanations)])
        server = uvicorn.Server(
            uvicorn.Config(app, host="127.0.0.1", port=0, lifespan="off", log_config=None)
        )
        task = asyncio.create_task(server._serve())
        await until(lambda: server.started)
        try:
            yield gateway, f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
        finally:
            server.should_exit = True
            await task


class Callers:
    """Calls through a gateway; each gives its request id."""

    def __init__(self, client: aiohttp.ClientSession, gateway: RunningGateway) -> None:
        self._client = client
        self._gateway = gateway
        self._url = f"{gateway.url}/v1/chat/completions"

    async def ask(
        self, tier: str, *, tokens: int = 8, model: str = MODEL, stream: bool = True
    ) -> str:
        asked = {
            "model": model,
            "messages": [{"role": "user", "content": "Say something."}],
            "max_tokens": tokens,
            "ignore_eos": True,
            "stream": stream,
            "service_tier": tier,
        }
        async with self._client.post(self._url, json=asked) as answer:
            if tokens < 1000:
                await answer.read()
            else:
                await answer.content.readany()
                answer.close()
            return answer.headers["x-request-id"]

    async def behind(self, tier: str) -> str:
        """Ask while the only slot is taken for a second or so."""
        first = asyncio.create_task(self.ask("flex", tokens=100))
        await until(lambda: bool(self._gateway.leftovers()["slots"]))
        found = await self.ask(tier)
        await first
        return found

    async def hang_up(self) -> str:
        found = await self.ask("flex", tokens=2000)
        await until(lambda: not self._gateway.leftovers()["slots"])
        return found

    async def be_retried(self) -> str:
        while True:  # two at once, so that not both go to the replica that answers
            both = [self.ask("flex", model=OTHER, stream=False) for _ in range(2)]
            for found in await asyncio.gather(*both):
                record = await self._gateway.services.explanations.find(found)
                if record is not None and record["attempts"] == 2:
                    return found


async def test_each_kind_of_call_is_told_in_words(
    redis_url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key = tmp_path / "key"
    key.write_text(KEY)
    async with administered(redis_url) as (gateway, url), aiohttp.ClientSession() as client:
        callers = Callers(client, gateway)
        told: dict[str, str] = {}
        for kind, request_id in {
            "routed": await callers.ask("flex"),
            "waited": await callers.behind("flex"),
            "demoted": await callers.behind("priority"),
            "shed": await callers.behind("default"),
            "retried": await callers.be_retried(),
            "hung up": await callers.hang_up(),
        }.items():
            arguments = [request_id, "--admin-url", url, "--admin-key-file", str(key)]
            assert await asyncio.to_thread(explain.main, arguments) == 0
            told[kind] = capsys.readouterr().out
            assert told[kind].startswith(request_id)
    assert "admitted: a slot was free" in told["routed"]
    assert "waited:" in told["waited"]
    assert "demoted from interactive to offline" in told["demoted"]
    assert "deadline_passed" in told["shed"]
    assert "failed: " in told["retried"]
    assert "TPOT none" in told["retried"]  # in one piece
    assert "in 2 attempts" in told["retried"]
    assert "ended caller_left" in told["hung up"]
