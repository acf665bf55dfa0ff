"""Two tenants at one gateway, of whom one has made one of everything."""

import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
import orjson

from backends.simulated.server import serve_replicas
from backends.simulated.settings import SimulatedSettings
from gateway.keys import Grant
from tests.gateways import RunningGateway, running_gateway

MODEL, OTHER_MODEL = "m", "only-of-a"
VIDEO_MODEL, OTHER_VIDEO_MODEL = "wan-2.2-t2v-a14b", "video-only-of-a"
NOWHERE = [{"url": "http://127.0.0.1:9"}]
LINE = {
    "custom_id": "1",
    "method": "POST",
    "url": "/v1/chat/completions",
    "body": {"model": MODEL, "messages": [{"role": "user", "content": "hi"}]},
}


@dataclass(frozen=True)
class Caller:
    """A client with one tenant's key."""

    session: aiohttp.ClientSession
    url: str

    async def ask(self, method: str, path: str, **how: Any) -> tuple[int, Any]:
        """Send one request; give status and body, as JSON where it is."""
        async with self.session.request(method, self.url + path, **how) as answer:
            body = await answer.read()
            try:
                return answer.status, orjson.loads(body)
            except orjson.JSONDecodeError:
                return answer.status, body


@dataclass(frozen=True)
class Site:
    """Two tenants at one gateway; `things` are A's, by the name of the path's parameter."""

    gateway: RunningGateway
    a: Caller
    b: Caller
    things: Mapping[str, str]
    engine: Any


@asynccontextmanager
async def two_tenants(redis_url: str) -> AsyncIterator[Site]:
    """A gateway where tenant A has made one of everything."""
    async with (
        serve_replicas(SimulatedSettings(model=MODEL, mean_output_tokens=5)) as (engine,),
        running_gateway(
            redis_url,
            {MODEL: [engine.url]},
            no_auth=False,
            more_models={
                VIDEO_MODEL: {"engine": "diffusion", "replicas": NOWHERE},
                OTHER_VIDEO_MODEL: {"engine": "diffusion", "replicas": NOWHERE},
                OTHER_MODEL: {"replicas": NOWHERE},
            },
        ) as gateway,
    ):
        keys = gateway.services.keys
        key_a, _ = await keys.create(Grant(tenant="a"))
        models = frozenset({MODEL, VIDEO_MODEL})
        key_b, _ = await keys.create(Grant(tenant="b", models=models))
        async with _session(key_a) as session_a, _session(key_b) as session_b:
            a, b = Caller(session_a, gateway.url), Caller(session_b, gateway.url)
            yield Site(gateway, a, b, await _everything(a), engine)


def _session(key: str) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(headers={"authorization": f"Bearer {key}"})


async def _everything(a: Caller) -> dict[str, str]:
    """Make one of everything; give the ids by the parameters that name them."""
    made: dict[str, str] = {"model": OTHER_MODEL}
    status, body = await a.ask("POST", "/v1/responses", json={"model": MODEL, "input": "hi"})
    assert status == 200, body
    made["response_id"] = body["id"]
    form = aiohttp.FormData({"purpose": "batch"})
    form.add_field("file", orjson.dumps(LINE) + b"\n", filename="rows.jsonl")
    status, body = await a.ask("POST", "/v1/files", data=form)
    assert status == 200, body
    made["file_id"] = body["id"]
    status, body = await a.ask(
        "POST",
        "/v1/batches",
        json={
            "input_file_id": made["file_id"],
            "endpoint": "/v1/chat/completions",
            "completion_window": "24h",
        },
    )
    assert status == 200, body
    made["batch_id"] = body["id"]
    status, body = await a.ask("POST", "/v1/videos", json={"model": VIDEO_MODEL, "prompt": "p"})
    assert status == 200, body
    made["video_id"] = body["id"]
    return made


def filled(path: str, things: Mapping[str, str]) -> str:
    """Put A's ids into a path or a text."""
    return re.sub(r"\{(\w+)(?::path)?\}", lambda found: things.get(found[1], "video"), path)
