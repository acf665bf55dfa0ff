"""The engines that the contract is checked against: a real SGLang, started once, and the simulated
replica."""

import contextlib
import os
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp
import pytest

from backends.embedded import environment, server
from backends.simulated.server import serve
from backends.simulated.settings import SimulatedSettings
from tests.contract.site import CONTEXT_TOKENS, MAX_QUEUED, MAX_RUNNING, Site, until_idle
from tests.gateways import running_gateway

READY_WITHIN_S = 240.0
REAL, SIMULATED = "tiny-llama", "llama2-70b"
# What the gateway lets through to the engine at once: more than the engine takes.
GATEWAY_SLOTS = 64

ENGINES = [
    pytest.param("simulated", id="simulated"),
    pytest.param(
        "sglang",
        id="sglang",
        marks=[
            pytest.mark.sglang,
            pytest.mark.xdist_group("sglang"),
            pytest.mark.timeout(READY_WITHIN_S + 60),
        ],
    ),
]


@pytest.fixture(scope="session")
def sglang_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real SGLang with a tiny model, in a session of its own that is ended whole."""
    workshop = environment.Workshop.of(os.environ)
    python = environment.ensure_engine(workshop)
    model = environment.ensure_model(environment.TINY_LLAMA, workshop)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    serving = server.Serving(context_tokens=CONTEXT_TOKENS, max_running=MAX_RUNNING)
    argv = server.command(python, model, served_model_name=REAL, port=port, serving=serving)
    argv += ["--max-queued-requests", str(MAX_QUEUED)]
    log = tmp_path_factory.mktemp("sglang") / "sglang.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            argv,
            stdout=output,
            stderr=output,
            env=server.environ(os.environ),
            start_new_session=True,
        )
    try:
        _until_ready(process, f"http://127.0.0.1:{port}/ready", log)
        yield f"http://127.0.0.1:{port}"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _until_ready(process: "subprocess.Popen[bytes]", url: str, log: Path) -> None:
    deadline = time.monotonic() + READY_WITHIN_S
    while True:
        if process.poll() is not None or time.monotonic() > deadline:
            raise AssertionError(log.read_text(errors="replace")[-4000:])
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=2):
            return
        time.sleep(0.2)


@pytest.fixture(scope="module", params=ENGINES)
async def site(request: pytest.FixtureRequest, store_url: str) -> AsyncIterator[Site]:
    """A gateway with one replica, which is real or simulated."""
    is_real = request.param == "sglang"
    async with AsyncExitStack() as stack:
        if is_real:
            url = request.getfixturevalue("sglang_url")
        else:
            settings = SimulatedSettings(
                model=SIMULATED,
                max_running=MAX_RUNNING,
                max_queued=MAX_QUEUED,
                context_tokens=CONTEXT_TOKENS,
                mean_output_tokens=30,
            )
            (url,) = await stack.enter_async_context(serve(settings))
        model = REAL if is_real else SIMULATED
        gateway = await stack.enter_async_context(
            running_gateway(
                store_url.replace("db=0", "db=9"), {model: [url]}, max_running=GATEWAY_SLOTS
            )
        )
        session = await stack.enter_async_context(aiohttp.ClientSession())
        found = Site(gateway, url, model, is_real, session)
        yield found
        await until_idle(found)
