"""What is measured? Simulated replicas and what stands in front of them, as real processes."""

import asyncio
import json
import os
import re
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

MODEL = "llama2-70b"
START_S = 30.0
PEERS = Path(
    os.environ.get("BENCH_PEERS")
    or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sluice-bench"
)
STOP_S = 5.0


@dataclass(frozen=True, slots=True)
class Fleet:
    """So many replicas with so much of an MI355X's throughput, `per_process` in one process."""

    scales: Sequence[float]
    stream_interval: int = 8
    per_process: int = 4


@asynccontextmanager
async def replicas(fleet: Fleet, directory: Path) -> AsyncIterator[list[str]]:
    """Run simulated replicas; give their URLs."""
    async with AsyncExitStack() as stack:
        ready: list[Path] = []
        groups: list[tuple[float, int]] = []
        for scale in dict.fromkeys(fleet.scales):
            left = list(fleet.scales).count(scale)
            while left > 0:
                groups.append((scale, min(left, fleet.per_process)))
                left -= fleet.per_process
        for index, (scale, count) in enumerate(groups):
            file = directory / f"replicas{index}.json"
            file.unlink(missing_ok=True)
            argv = [
                *(sys.executable, "-m", "backends.simulated", "--model", MODEL, "--port", "0"),
                *("--replicas", str(count), "--throughput-scale", str(scale)),
                *("--stream-interval", str(fleet.stream_interval), "--ready-file", str(file)),
                # Every policy is sent the same prompts: a cache would favour who comes later.
                "--disable-radix-cache",
            ]
            await stack.enter_async_context(_process(argv, directory / f"replicas{index}.log"))
            ready.append(file)
        urls: list[str] = []
        for file in ready:
            await _until(file.exists)
            urls += json.loads(file.read_text())["urls"]
        yield urls


@asynccontextmanager
async def gateway(
    urls: Sequence[str], settings: Mapping[str, Any], directory: Path, redis_url: str
) -> AsyncIterator[str]:
    """Run one gateway before these replicas; give the base URL of its API."""
    config = directory / "sluice.yaml"
    config.write_text(
        json.dumps(  # YAML is a superset
            {
                "no_auth": True,
                "port": 0,
                "admin_port": 0,
                "data_dir": str(directory / "data"),
                "telemetry": {"log_level": "warning"},
                "models": {MODEL: {"engine": "simulated", "replicas": [{"url": u} for u in urls]}},
                **settings,
            }
        )
    )
    log = directory / "gateway.log"
    argv = [sys.executable, "-m", "gateway.cli", "gateway", "--config", str(config)]
    async with _process(argv, log, {"REDIS_URL": redis_url}):
        said = re.compile(r"sluice gateway: (http\S+/v1),")
        await _until(lambda: said.search(log.read_text()) is not None)
        found = said.search(log.read_text())
        url = found[1] if found else ""
        await _all_ready(url, len(urls))
        yield url


@asynccontextmanager
async def worker(directory: Path, redis_url: str) -> AsyncIterator[None]:
    """Run one worker with the settings of the gateway in this directory."""
    log = directory / "worker.log"
    config = directory / "sluice.yaml"
    argv = [sys.executable, "-m", "gateway.cli", "worker", "--config", str(config)]
    async with _process(argv, log, {"REDIS_URL": redis_url}):
        await _until(lambda: "sluice worker: at work" in log.read_text())
        yield


ROUTERS = {"smg": ("smg", "launch"), "sglang-router": ("sglang_router.launch_router",)}


class NotInstalled(RuntimeError):
    """The router is not on this machine; the message says where it was looked for."""


@asynccontextmanager
async def router(name: str, urls: Sequence[str], directory: Path) -> AsyncIterator[str]:
    """Run another router before these replicas, least load first; give the base URL of its API.

    Raises NotInstalled where its environment (`bench/dataplane/setup` makes it) is missing.
    """
    python = PEERS / name / "bin" / "python"
    if not python.exists():
        raise NotInstalled(f"{name} is not installed: no {python}")
    ports = []
    for _ in range(2):  # its own, and that of its metrics
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            ports.append(str(free.getsockname()[1]))
    argv = [
        *(str(python), "-m", *ROUTERS[name], "--host", "127.0.0.1", "--port", ports[0]),
        *("--prometheus-port", ports[1], "--policy", "power_of_two"),
        *("--log-level", "error", "--max-concurrent-requests", "-1", "--worker-urls", *urls),
    ]
    async with _process(argv, directory / f"{name}.log"):
        url = f"http://127.0.0.1:{ports[0]}/v1"
        end = time.monotonic() + START_S
        async with aiohttp.ClientSession() as session:
            while not await _answers(session, url):
                if time.monotonic() > end:
                    raise TimeoutError(f"{name} did not start")
                await asyncio.sleep(0.2)
        yield url


async def _answers(session: aiohttp.ClientSession, url: str) -> bool:
    asked = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 1}
    try:
        async with session.post(f"{url}/chat/completions", json=asked) as answer:
            return answer.status == 200
    except aiohttp.ClientError:
        return False


async def _all_ready(url: str, count: int) -> None:
    async with aiohttp.ClientSession() as session, asyncio.timeout(START_S):
        while True:
            async with session.get(url.removesuffix("/v1") + "/readyz") as answer:
                found = await answer.json()
            if found["checks"]["replicas"] == count:
                return
            await asyncio.sleep(0.1)


async def done_work(urls: Sequence[str]) -> tuple[int, int]:
    """Give the tokens that all replicas have prefilled and generated since they began."""
    prefilled = generated = 0
    async with aiohttp.ClientSession() as session:
        for url in urls:
            async with session.get(f"{url}/v1/loads?include=core") as answer:
                load = (await answer.json())["loads"][0]
            prefilled += load["total_prefill_uncached_tokens"]
            generated += int((load["decode_moments"] or [0.0] * 6)[5])
    return prefilled, generated


async def idle(urls: Sequence[str], within_s: float = 60.0) -> None:
    """Wait until no replica has anything to do."""
    async with aiohttp.ClientSession() as session, asyncio.timeout(within_s):
        for url in urls:
            while True:
                async with session.get(f"{url}/v1/loads?include=core") as answer:
                    load = (await answer.json())["loads"][0]
                if not load["num_running_reqs"] and not load["num_waiting_reqs"]:
                    break
                await asyncio.sleep(0.1)


@asynccontextmanager
async def _process(
    argv: Sequence[str], log: Path, more: Mapping[str, str] | None = None
) -> AsyncIterator[None]:
    with log.open("wb") as out:
        process = await asyncio.create_subprocess_exec(
            *argv, stdout=out, stderr=out, env={**os.environ, **(more or {})}
        )
    try:
        yield
    finally:
        for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGKILL):
            if process.returncode is not None:
                break
            process.send_signal(number)
            try:
                async with asyncio.timeout(STOP_S):
                    await process.wait()
            except TimeoutError:
                continue


async def _until(condition: Any) -> None:
    end = time.monotonic() + START_S
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError("a process did not start")
        await asyncio.sleep(0.05)
