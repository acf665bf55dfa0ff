"""TLS and reload, on a whole gateway as the command line runs it."""

import asyncio
import os
import shutil
import signal
import ssl
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from backends.simulated.server import serve as serve_simulated
from backends.simulated.settings import SimulatedSettings
from gateway.config import ConfigError, load
from gateway.listeners import Bound
from gateway.server import serve
from gateway.settings import Settings
from tests.waiting import eventually

ADMIN = "an-admin-key"
needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")


def certificate(directory: Path, name: str) -> None:
    """Write name.crt and name.key, valid for 127.0.0.1 and its own authority."""
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
            *("-nodes", "-days", "2", "-subj", f"/CN={name}"),
            *("-addext", "subjectAltName=IP:127.0.0.1", "-keyout", f"{name}.key"),
            *("-out", f"{name}.crt"),
        ],
        cwd=directory,
        check=True,
        capture_output=True,
        timeout=30,
    )


@asynccontextmanager
async def gateway(path: Path, redis_url: str) -> AsyncIterator[Bound]:
    """Serve what a file says, and read it again when told."""

    def again() -> Settings:
        return load(path, {"SLUICE_ADMIN_KEY": ADMIN}, {"port": 0, "admin_port": 0})

    bound: asyncio.Future[Bound] = asyncio.get_running_loop().create_future()
    stop = asyncio.Event()
    task = asyncio.create_task(
        serve(again(), redis_url=redis_url, on_ready=bound.set_result, stop=stop, again=again)
    )
    try:
        both: set[asyncio.Future[Any]] = {task, bound}
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            await task
        yield bound.result()
    finally:
        stop.set()
        await asyncio.gather(task, return_exceptions=True)


async def reload(bound: Bound) -> tuple[int, Any]:
    """Ask the admin API for it."""
    headers = {"authorization": f"Bearer {ADMIN}"}
    async with (
        aiohttp.ClientSession(headers=headers) as session,
        session.post(f"{bound.admin_url}/admin/reload") as answer,
    ):
        return answer.status, await answer.json()


async def shown_certificate(bound: Bound) -> bytes:
    """The certificate that a new handshake shows."""
    port = int(bound.base_url.split(":")[2].partition("/")[0])
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    found: bytes = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    await writer.wait_closed()
    return found


@needs_openssl
async def test_a_stream_comes_over_tls_and_a_new_certificate_without_a_restart(
    tmp_path: Path, redis_url: str
) -> None:
    certificate(tmp_path, "first")
    certificate(tmp_path, "second")
    config = tmp_path / "sluice.yaml"
    async with serve_simulated(SimulatedSettings(model="m")) as urls:
        config.write_text(
            "no_auth: true\n"
            f"tls: {{cert_file: {tmp_path}/first.crt, key_file: {tmp_path}/first.key}}\n"
            f"models: {{m: {{replicas: [{{url: '{urls[0]}'}}]}}}}\n"
        )
        async with gateway(config, redis_url) as bound:
            assert bound.base_url.startswith("https://")
            trust = ssl.create_default_context(cafile=tmp_path / "first.crt")
            body = {
                "model": "m",
                "stream": True,
                "max_tokens": 30,
                "messages": [{"role": "user", "content": "hi"}],
            }
            async with aiohttp.ClientSession() as session:

                async def is_served() -> bool:
                    url = f"{bound.base_url}/chat/completions"
                    async with session.post(url, json=body, ssl=trust) as answer:
                        text = await answer.text()
                        return answer.status == 200 and text.endswith("data: [DONE]\n\n")

                await eventually(is_served)
            first = await shown_certificate(bound)
            config.write_text(config.read_text().replace("first", "second"))
            assert await reload(bound) == (200, {"applied": ["tls"], "after_restart": []})
            second = await shown_certificate(bound)
            assert first != second

            # A pair that does not fit changes nothing, and says why.
            config.write_text(config.read_text().replace("second.key", "first.key"))
            status, answer = await reload(bound)
            assert status == 400
            assert answer["error"]["code"] == "invalid_settings"
            assert "tls" in answer["error"]["message"]
            assert await shown_certificate(bound) == second


@needs_openssl
async def test_a_certificate_that_cannot_be_read_stops_the_start(
    tmp_path: Path, redis_url: str
) -> None:
    config = tmp_path / "sluice.yaml"
    config.write_text("no_auth: true\ntls: {cert_file: /nowhere.crt, key_file: /nowhere.key}\n")
    with pytest.raises(ConfigError, match=r"nowhere\.crt"):
        async with gateway(config, redis_url):
            pass


async def test_classes_limits_and_pools_change_while_it_serves(
    tmp_path: Path, redis_url: str
) -> None:
    config = tmp_path / "sluice.yaml"
    config.write_text("no_auth: true\n")
    async with (
        serve_simulated(SimulatedSettings(model="m")) as urls,
        gateway(config, redis_url) as bound,
    ):
        config.write_text(
            "no_auth: true\nlimits: {body_bytes: 2000}\nworkers: 3\n"
            "classes: {gold: {rank: 0}}\n"
            f"models: {{m: {{replicas: [{{url: '{urls[0]}'}}]}}}}\n"
        )
        status, answer = await reload(bound)
        assert status == 200
        assert set(answer["applied"]) == {"classes", "limits", "models"}
        assert answer["after_restart"] == ["workers"]
        async with aiohttp.ClientSession() as session:

            async def has_the_model() -> bool:
                async with session.get(bound.base_url.replace("/v1", "/readyz")) as found:
                    return found.status == 200

            await eventually(has_the_model)
            url = f"{bound.base_url}/chat/completions"
            async with session.post(url, json={"model": "m", "x": "y" * 3000}) as found:
                assert found.status == 413


async def test_a_faulty_file_changes_nothing_on_sighup(
    tmp_path: Path, redis_url: str, capfd: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "sluice.yaml"
    config.write_text("no_auth: true\n")
    said: list[str] = []

    def heard(word: str) -> bool:
        said.append(capfd.readouterr().err)
        return any(word in each for each in said)

    async with gateway(config, redis_url) as bound:
        config.write_text("no_auth: true\nlimits: {body_bytes: a lot}\n")
        os.kill(os.getpid(), signal.SIGHUP)
        await eventually(lambda: heard("reload_refused"))
        status, answer = await reload(bound)
        assert status == 400
        assert "body_bytes" in answer["error"]["message"]
        config.write_text("no_auth: true\nlimits: {body_bytes: 4096}\n")
        os.kill(os.getpid(), signal.SIGHUP)
        await eventually(lambda: heard("reloaded"))
