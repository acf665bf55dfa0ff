"""Does a store with TLS and a password, as docs/deployment.md makes it, hold a fleet together?

The page's own lines make the certificates, and `compose/shared-store.yaml` gives the server's
command; a real Redis runs it.
"""

import asyncio
import re
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import pytest
import yaml
from redis.exceptions import RedisError

from backends.fleet import Replica
from backends.simulated.server import serve
from backends.simulated.settings import SimulatedSettings
from backends.store import connect
from backends.tenure import serve_replica
from tests.deploy.files import ROOT
from tests.gateways import running_gateway
from tests.waiting import eventually

pytestmark = pytest.mark.skipif(
    not all(map(shutil.which, ("redis-server", "openssl"))),
    reason="needs redis-server (Debian's package) and openssl",
)


def made(directory: Path) -> str:
    """Run the page's lines up to the first `export`; give the URL that they wrote."""
    page = (ROOT / "docs/deployment.md").read_text()
    block = page.partition("# on the first host")[2].partition("export ")[0]
    lines = block.partition("\n")[2].replace("10.0.0.1", "127.0.0.1")
    assert "openssl x509" in lines
    subprocess.run(
        ["/bin/bash", "-euc", lines], cwd=directory, check=True, capture_output=True, timeout=60
    )
    url = (directory / "tls/store-url").read_text()
    return url.replace("=/tls/", f"={directory}/tls/")


@asynccontextmanager
async def store(directory: Path) -> AsyncIterator[str]:
    """Run the server; give its URL."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = made(directory).replace("@redis:6380", f"@127.0.0.1:{port}")
    told = yaml.safe_load((ROOT / "compose/shared-store.yaml").read_text())
    words = [
        word.replace("/tmp/redis.sock", str(directory / "s")).replace("6380", str(port))
        for word in told["services"]["redis"]["command"]
    ]
    words = [re.sub("^/tls/", f"{directory}/tls/", word) for word in words]
    process = await asyncio.create_subprocess_exec(
        *words, cwd=directory, stdout=asyncio.subprocess.DEVNULL
    )
    try:
        await eventually(lambda: answers(url), within_s=30)
        yield url
    finally:
        process.terminate()
        await process.wait()


async def answers(url: str) -> bool:
    """Whether the store answers to who comes by this URL."""
    client = connect(url)
    try:
        return bool(await client.ping())
    except (RedisError, OSError):
        return False
    finally:
        await client.aclose()


async def test_a_replica_of_another_host_serves_through_the_store(tmp_path: Path) -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 3}
    stop = asyncio.Event()
    async with store(tmp_path) as url, serve(SimulatedSettings(model="m")) as (engine,):
        lease = asyncio.create_task(
            serve_replica(None, [Replica("far", "m", engine)], url, stop=stop, drain_within_s=0.0)
        )
        async with running_gateway(url, {}) as gateway, aiohttp.ClientSession() as session:

            async def is_served() -> bool:
                async with session.post(f"{gateway.url}/v1/chat/completions", json=body) as answer:
                    return answer.status == 200

            await eventually(is_served, within_s=30)
        stop.set()
        await lease


async def test_nobody_gets_in_without_the_password_or_without_tls(tmp_path: Path) -> None:
    async with store(tmp_path) as url:
        assert await answers(url)
        password = str(urlsplit(url).password)
        assert len(password) == 64
        assert not await answers(url.replace(password, "another"))
        assert not await answers(url.replace(f":{password}@", ""))
        assert not await answers(url.replace("rediss:", "redis:").partition("?")[0])
        # An authority that did not sign the server's certificate is not believed.
        (tmp_path / "b").mkdir()
        made(tmp_path / "b")
        assert not await answers(url.replace("/tls/ca.crt", "/b/tls/ca.crt"))
