"""The public `sglang-router` package routes to simulated replicas unmodified.

It runs where the package is installed: in this environment, or in the one whose Python the
variable SLUICE_SGLANG_ROUTER_PYTHON names.
"""

import asyncio
import importlib.util
import os
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from backends.simulated.server import serve_replicas
from backends.simulated.settings import SimulatedSettings
from tests.backends.simulated.captures import frames_of
from tests.waiting import eventually


def _python() -> str | None:
    if importlib.util.find_spec("sglang_router"):
        return sys.executable
    return os.environ.get("SLUICE_SGLANG_ROUTER_PYTHON")


pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(_python() is None, reason="sglang-router is not installed"),
]


@pytest.fixture
def free_metrics_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def test_sglang_router_routes_to_simulated_replicas(
    free_port: int, free_metrics_port: int, tmp_path: Path
) -> None:
    settings = SimulatedSettings(replicas=2)
    async with (
        serve_replicas(settings) as replicas,
        _router([r.url for r in replicas], free_port, free_metrics_port, tmp_path) as url,
        aiohttp.ClientSession() as client,
    ):
        answers = await asyncio.gather(*(_chat(client, url, f"Question {i}") for i in range(8)))
        asked = {**_asked("Hello"), "stream": True, "stream_options": {"include_usage": True}}
        async with client.post(url + "/v1/chat/completions", json=asked) as response:
            frames = frames_of(await response.text())
        async with client.get(url + "/v1/models") as response:
            assert "llama2-70b" in await response.text()
    assert all(a["usage"]["completion_tokens"] == 5 for a in answers)
    assert (frames[-2]["usage"]["completion_tokens"], frames[-1]) == (5, "[DONE]")
    assert all(r.driver.core.counters.ended > 0 for r in replicas)


def _asked(text: str) -> dict[str, object]:
    messages = [{"role": "user", "content": text}]
    return {"model": "llama2-70b", "messages": messages, "max_tokens": 5, "ignore_eos": True}


async def _chat(client: aiohttp.ClientSession, url: str, text: str) -> dict[str, dict[str, int]]:
    async with client.post(url + "/v1/chat/completions", json=_asked(text)) as response:
        assert response.status == 200, await response.text()
        found: dict[str, dict[str, int]] = await response.json()
        return found


@asynccontextmanager
async def _router(
    workers: list[str], port: int, metrics_port: int, folder: Path
) -> AsyncIterator[str]:
    python = _python()
    assert python is not None
    argv = [python, "-m", "sglang_router.launch_router", "--worker-urls", *workers]
    argv += ["--host", "127.0.0.1", "--port", str(port), "--policy", "round_robin"]
    argv += ["--prometheus-port", str(metrics_port), "--worker-startup-check-interval", "1"]
    url = f"http://127.0.0.1:{port}"
    log = folder / "router.log"
    with log.open("wb") as out:
        process = await asyncio.create_subprocess_exec(*argv, stdout=out, stderr=out)
        try:
            async with aiohttp.ClientSession() as client:

                async def serves() -> bool:
                    assert process.returncode is None, f"it ended: see {log}"
                    try:
                        async with client.get(url + "/readiness") as response:
                            return response.status == 200
                    except aiohttp.ClientError:
                        return False

                await eventually(serves, within_s=60.0, every_s=0.2)
            yield url
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()
