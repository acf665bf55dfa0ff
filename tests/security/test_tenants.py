"""Can one tenant reach what is another's? Every route that names something is tried.

A route that is new and names something fails here until it stands in `THINGS`.
"""

import re
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp
import orjson
import pytest

from backends.simulated.server import serve_replicas
from backends.simulated.settings import SimulatedSettings
from gateway.app import openapi_document
from gateway.errors import NotFound
from gateway.isolation import salt_of
from gateway.keys import Grant
from gateway.settings import Isolation
from tests.gateways import RunningGateway, running_gateway

MODEL, OTHER_MODEL, VIDEO_MODEL = "m", "only-of-a", "wan-2.2-t2v-a14b"
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


@pytest.fixture(scope="module")
async def site(store_url: str) -> AsyncIterator[Site]:
    """A gateway where tenant A has made one of everything."""
    redis_url = store_url.replace("db=0", "db=11")
    async with (
        serve_replicas(SimulatedSettings(model=MODEL, mean_output_tokens=5)) as (engine,),
        running_gateway(
            redis_url,
            {MODEL: [engine.url]},
            no_auth=False,
            more_models={
                VIDEO_MODEL: {"engine": "diffusion", "replicas": [{"url": "http://127.0.0.1:9"}]},
                OTHER_MODEL: {"replicas": [{"url": "http://127.0.0.1:9"}]},
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


THINGS = ("response_id", "file_id", "batch_id", "video_id", "model")
NAMED = [
    (method.upper(), path)
    for path, operations in openapi_document()["paths"].items()
    for method in operations
    if "{" in path
]
LISTS = ["/v1/files", "/v1/batches", "/v1/videos", "/v1/models"]


def filled(path: str, things: Mapping[str, str]) -> str:
    """Put A's ids into a path."""
    return re.sub(r"\{(\w+)\}", lambda found: things.get(found[1], "video"), path)


def test_every_named_thing_is_known_here() -> None:
    names = {name for _, path in NAMED for name in re.findall(r"\{(\w+)\}", path)}
    assert names - {"variant"} == set(THINGS)
    assert len(NAMED) > 12


@pytest.mark.parametrize(("method", "path"), NAMED)
async def test_what_is_another_tenant_s_does_not_exist(site: Site, method: str, path: str) -> None:
    # The one route that opens to a signed URL instead of a key: this is a made-up signature.
    signed = {"expires": "9999999999", "signature": "0" * 64} if "artifacts" in path else {}
    status, body = await site.b.ask(method, filled(path, site.things), params=signed)
    assert status in (403, 404), body
    # What does not exist at all is answered in the same words, so that no id can be guessed.
    nowhere = {name: value[:-4] + "zzzz" for name, value in site.things.items()}
    other_status, other = await site.b.ask(method, filled(path, nowhere), params=signed)
    assert other_status == status
    assert other["error"]["code"] == body["error"]["code"]


@pytest.mark.parametrize("path", LISTS)
async def test_lists_show_a_tenant_s_own(site: Site, path: str) -> None:
    _, mine = await site.a.ask("GET", path)
    _, theirs = await site.b.ask("GET", path)
    ids = {each["id"] for each in mine["data"]} & set(site.things.values())
    assert ids
    assert not ids & {each["id"] for each in theirs["data"]}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/responses", {"model": MODEL, "input": "x", "previous_response_id": "{response_id}"}),
        ("/v1/chat/completions", {"model": OTHER_MODEL, "messages": LINE["body"]["messages"]}),  # type: ignore[index]
    ],
)
async def test_a_body_cannot_name_another_tenant_s_things(
    site: Site, path: str, body: dict[str, Any]
) -> None:
    named = {k: filled(v, site.things) if isinstance(v, str) else v for k, v in body.items()}
    status, answer = await site.b.ask("POST", path, json=named)
    assert status in (400, 403, 404), answer
    assert "error" in answer


async def test_a_batch_finds_no_file_of_another_tenant(site: Site) -> None:
    """A batch's file is looked for afterwards, by the tenant whose batch it is."""
    files, file_id = site.gateway.services.files, site.things["file_id"]
    assert (await files.find("a", file_id)).tenant == "a"
    with pytest.raises(NotFound):
        await files.find("b", file_id)


async def test_the_admin_api_opens_to_no_caller_s_key(site: Site) -> None:
    for path in ("/admin/keys", "/admin/replicas", "/admin/jobs", "/admin/reload"):
        status, _ = await site.b.ask("GET", path)
        assert status == 404  # it is not even there on the callers' port


async def test_a_still_has_all_of_it(site: Site) -> None:
    for path in ("/v1/responses/{response_id}", "/v1/files/{file_id}", "/v1/batches/{batch_id}"):
        status, _ = await site.a.ask("GET", filled(path, site.things))
        assert status == 200


async def test_an_engine_s_prefix_cache_tells_nothing_across_tenants(site: Site) -> None:
    body = {
        "model": MODEL,
        "max_tokens": 2,
        "messages": [{"role": "user", "content": "a long and quite secret text " * 40}],
    }

    async def cached(caller: Caller, **more: Any) -> int:
        status, answer = await caller.ask("POST", "/v1/chat/completions", json={**body, **more})
        assert status == 200, answer
        found: int = answer["usage"]["prompt_tokens_details"]["cached_tokens"]
        return found

    assert await cached(site.a) == 0
    assert await cached(site.a) > 0
    assert await cached(site.b) == 0
    # A salt that a caller sends is dropped: B cannot step into A's cache by naming it.
    await cached(site.b)
    body["messages"] = [{"role": "user", "content": "another text that only A has sent " * 40}]
    assert await cached(site.a) == 0
    assert await cached(site.b, cache_salt=salt_of("a", Isolation())) == 0


def test_the_tenant_of_a_single_user_has_no_salt() -> None:
    assert salt_of("default", Isolation()) is None
    assert salt_of("a", Isolation(cache_salt=False)) is None
    assert salt_of("a", Isolation()) != salt_of("b", Isolation())
