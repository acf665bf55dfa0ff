"""Which routes are there, and what does each give to a caller of another tenant, and to nobody?

The routes are those of the application that serves, the ones ahead of its dispatch included. One
that is new fails here until it stands in `MATRIX`.
"""

import re
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any

import aiohttp
import orjson
import pytest
from fastapi import FastAPI
from fastapi.routing import iter_route_contexts
from starlette.routing import BaseRoute

from gateway.api.front import Front
from gateway.app import create_app
from gateway.reload import Reloader
from gateway.server import admin_of
from tests.security.tenants import (
    MODEL,
    OTHER_MODEL,
    OTHER_VIDEO_MODEL,
    VIDEO_MODEL,
    Site,
    filled,
)

Route = tuple[str, str]


class Kind(Enum):
    """What a route may show to whom."""

    OPEN = "needs no key, and names nothing of a tenant's"
    ABSENT = "is answered as if it were not there, whoever asks"
    THING = "names one thing in its path"
    LIST = "gives what is the tenant's own"
    ACT = "does what its body says; the body may name things, see `BODIES`"


_MESSAGES = [{"role": "user", "content": "hi"}]
# What B sends that is A's alone. `None`: the body of this route can name nothing.
BODIES: Mapping[str, Mapping[str, Any] | None] = {
    "/v1/chat/completions": {"model": OTHER_MODEL, "messages": _MESSAGES},
    "/v1/completions": {"model": OTHER_MODEL, "prompt": "hi"},
    "/v1/embeddings": {"model": OTHER_MODEL, "input": "hi"},
    "/v1/rerank": {"model": OTHER_MODEL, "query": "q", "documents": ["d"]},
    "/v2/rerank": {"model": OTHER_MODEL, "query": "q", "documents": ["d"]},
    "/v1/score": {"model": OTHER_MODEL, "query": "q", "items": ["d"]},
    "/v1/classify": {"model": OTHER_MODEL, "input": "hi"},
    "/v1/tokenize": {"model": OTHER_MODEL, "prompt": "hi"},
    "/v1/detokenize": {"model": OTHER_MODEL, "tokens": [1]},
    "/v1/messages": {"model": OTHER_MODEL, "messages": _MESSAGES, "max_tokens": 1},
    "/v1/messages/count_tokens": {"model": OTHER_MODEL, "messages": _MESSAGES},
    "/v1/responses": {"model": OTHER_MODEL, "input": "hi"},
    "/v1/responses/input_tokens": {"model": OTHER_MODEL, "input": "hi"},
    "/v1/videos": {"model": OTHER_VIDEO_MODEL, "prompt": "p"},
    "/v1/videos/generations": {"model": OTHER_VIDEO_MODEL, "prompt": "p"},
    "/v1/files": None,
    "/v1/batches": {
        "input_file_id": "{file_id}",
        "endpoint": "/v1/chat/completions",
        "completion_window": "24h",
    },
}
# Bodies that name a thing of A's by its id; the status and the parameter that B is told of.
BY_ID: Sequence[tuple[str, Mapping[str, Any], tuple[int, str]]] = (
    ("/v1/batches", BODIES["/v1/batches"] or {}, (404, "input_file_id")),
    (
        "/v1/videos",
        {"model": VIDEO_MODEL, "prompt": "p", "input_reference": {"file_id": "{file_id}"}},
        (404, "input_reference"),
    ),
    (
        "/v1/responses",
        {"model": MODEL, "input": "hi", "previous_response_id": "{response_id}"},
        (400, "previous_response_id"),
    ),
)
OPEN = (
    *("/health", "/livez", "/ping", "/readyz", "/metrics", "/version"),
    *("/docs", "/docs/oauth2-redirect", "/redoc", "/openapi.json"),
)
LISTS = ("/v1/files", "/v1/batches", "/v1/videos", "/v1/models")
THINGS: Sequence[Route] = (
    ("GET", "/v1/responses/{response_id}"),
    ("DELETE", "/v1/responses/{response_id}"),
    ("POST", "/v1/responses/{response_id}/cancel"),
    ("GET", "/v1/responses/{response_id}/input_items"),
    ("GET", "/v1/videos/{video_id}"),
    ("DELETE", "/v1/videos/{video_id}"),
    ("POST", "/v1/videos/{video_id}/cancel"),
    ("GET", "/v1/videos/{video_id}/content"),
    ("HEAD", "/v1/videos/{video_id}/content"),
    ("GET", "/v1/artifacts/videos/{video_id}/{variant}"),
    ("GET", "/v1/files/{file_id}"),
    ("DELETE", "/v1/files/{file_id}"),
    ("GET", "/v1/files/{file_id}/content"),
    ("GET", "/v1/batches/{batch_id}"),
    ("POST", "/v1/batches/{batch_id}/cancel"),
    ("GET", "/v1/models/{model:path}"),
)
ABSENT: Sequence[Route] = (("POST", "/v1/responses/compact"),)
MATRIX: Mapping[Route, Kind] = {
    **{route: Kind.ABSENT for route in ABSENT},
    **{("GET", path): Kind.OPEN for path in OPEN},
    **{("GET", path): Kind.LIST for path in LISTS},
    **{route: Kind.THING for route in THINGS},
    **{("POST", path): Kind.ACT for path in BODIES},
}
NAMING = [("POST", path) for path, body in BODIES.items() if body is not None and "model" in body]
CLOSED = sorted(r for r, kind in MATRIX.items() if kind not in (Kind.OPEN, Kind.ABSENT))
ADMIN: frozenset[Route] = frozenset(
    {
        ("GET", "/admin/replicas"),
        ("POST", "/admin/replicas"),
        ("POST", "/admin/replicas/{name}/drain"),
        ("POST", "/admin/replicas/{name}/resume"),
        ("DELETE", "/admin/replicas/{name}"),
        ("GET", "/admin/keys"),
        ("POST", "/admin/keys"),
        ("DELETE", "/admin/keys/{key_id}"),
        ("GET", "/admin/calls/{request_id}"),
        ("GET", "/admin/jobs"),
        ("GET", "/admin/jobs/{job_id}"),
        ("POST", "/admin/jobs/{job_id}/cancel"),
        ("POST", "/admin/jobs/{job_id}/requeue"),
        ("GET", "/admin/autoscale"),
        ("POST", "/admin/autoscale/pause"),
        ("POST", "/admin/autoscale/resume"),
        ("POST", "/admin/autoscale/approve/{pool}"),
        ("POST", "/admin/reload"),
    }
)
ADMIN_OPEN = frozenset(set(OPEN) - {"/redoc"})


def routes_of(routes: Sequence[BaseRoute]) -> set[Route]:
    """Every method of every route; Starlette's HEAD beside a GET is that GET."""
    found = set[Route]()
    for each in iter_route_contexts(routes):
        methods = set(each.methods or ())
        assert methods, f"{each.path} is no route of HTTP, and nothing here tries it"
        if "GET" in methods:
            methods.discard("HEAD")
        found |= {(method, str(each.path)) for method in methods}
    return found


def served(app: FastAPI) -> set[Route]:
    """All that an application answers, its short ways in included."""
    assert isinstance(app, Front)
    return routes_of(app.routes) | {("POST", path) for path in app.ahead}


def made_up(path: str) -> dict[str, str]:
    """Give a made-up signature for the one route that opens to a signed URL instead of a key."""
    return {"expires": "9999999999", "signature": "0" * 64} if "artifacts" in path else {}


def with_ids(body: Mapping[str, Any], things: Mapping[str, str]) -> dict[str, Any]:
    """Put ids into a body."""
    filled_in: dict[str, Any] = orjson.loads(filled(orjson.dumps(body).decode(), things))
    return filled_in


async def test_the_matrix_knows_every_route(site: Site) -> None:
    assert served(create_app(site.gateway.services)) == set(MATRIX)


async def test_a_route_that_nobody_thought_of_is_noticed(site: Site) -> None:
    app = create_app(site.gateway.services)

    @app.get("/v1/everything/{thing_id}", include_in_schema=False)
    async def give(thing_id: str) -> str:
        return thing_id

    assert served(app) - set(MATRIX) == {("GET", "/v1/everything/{thing_id}")}


async def test_every_thing_that_a_path_names_is_one_that_a_has(site: Site) -> None:
    names = {name for _, path in MATRIX for name in re.findall(r"\{(\w+)", path)}
    assert names - {"variant"} == set(site.things)


@pytest.mark.parametrize(("method", "path"), THINGS)
async def test_what_is_another_tenant_s_does_not_exist(site: Site, method: str, path: str) -> None:
    signed = made_up(path)
    status, body = await site.b.ask(method, filled(path, site.things), params=signed)
    assert status in (403, 404), body
    # What does not exist at all is answered in the same words, so that no id can be guessed.
    nowhere = {name: value[:-4] + "zzzz" for name, value in site.things.items()}
    other_status, other = await site.b.ask(method, filled(path, nowhere), params=signed)
    assert other_status == status
    if method != "HEAD":
        assert other["error"]["code"] == body["error"]["code"]


@pytest.mark.parametrize(("method", "path"), NAMING)
async def test_what_a_body_names_of_another_tenant_does_not_exist(
    site: Site, method: str, path: str
) -> None:
    body = BODIES[path]
    assert body is not None
    status, answer = await site.b.ask(method, path, json=body)
    assert status in (403, 404), answer
    # It is the tenant, not the form of the body: to A the model is there.
    status, answer = await site.a.ask(method, path, json={**body, "model": "nobody-s"})
    assert status == 404, answer
    if path != "/v1/videos/generations":  # it waits for the video, which nobody makes
        own = VIDEO_MODEL if "video" in path else MODEL
        status, answer = await site.b.ask(method, path, json={**body, "model": own})
        assert status not in (401, 403, 404), answer


async def test_every_body_that_can_name_something_is_tried() -> None:
    tried = {path for _, path in NAMING} | {path for path, _, _ in BY_ID}
    assert {path for path, body in BODIES.items() if body is not None} == tried


@pytest.mark.parametrize(("path", "body", "refusal"), BY_ID)
async def test_what_a_body_names_by_id_of_another_tenant_is_as_if_it_did_not_exist(
    site: Site, path: str, body: Mapping[str, Any], refusal: tuple[int, str]
) -> None:
    nowhere = {name: value[:-4] + "zzzz" for name, value in site.things.items()}
    told = []
    for things in (site.things, nowhere):
        status, answer = await site.b.ask("POST", path, json=with_ids(body, things))
        text = str(answer)
        for name, value in things.items():
            text = text.replace(value, name)
        told.append((status, text))
        assert (status, answer["error"]["param"]) == refusal, answer
    assert told[0] == told[1]
    # It is the tenant, not the form of the body: A is understood.
    status, answer = await site.a.ask("POST", path, json=with_ids(body, site.things))
    assert status not in (401, 403, 404), answer


@pytest.mark.parametrize("path", LISTS)
async def test_lists_show_a_tenant_s_own(site: Site, path: str) -> None:
    _, mine = await site.a.ask("GET", path)
    _, theirs = await site.b.ask("GET", path)
    ids = {each["id"] for each in mine["data"]} & set(site.things.values())
    assert ids
    assert not ids & {each["id"] for each in theirs["data"]}


@pytest.mark.parametrize(("method", "path"), CLOSED)
@pytest.mark.parametrize("key", [None, "sk-sluice-nobody00-nobody"])
async def test_without_a_key_nothing_is_there(
    site: Site, method: str, path: str, key: str | None
) -> None:
    headers = {} if key is None else {"authorization": f"Bearer {key}"}
    body = BODIES.get(path) if method == "POST" else None
    url = site.gateway.url + filled(path, site.things)
    async with (
        aiohttp.ClientSession(headers=headers) as nobody,
        nobody.request(method, url, json=body, params=made_up(path)) as answer,
    ):
        assert answer.status in (401, 403), await answer.read()


@pytest.mark.parametrize(("method", "path"), ABSENT)
async def test_what_is_not_served_says_so_to_everybody(site: Site, method: str, path: str) -> None:
    for caller in (site.a, site.b):
        status, answer = await caller.ask(method, path, json={"model": MODEL, "input": "hi"})
        assert (status, answer["error"]["code"]) == (404, "unknown_url")


@pytest.mark.parametrize("path", OPEN)
async def test_what_is_open_names_nothing_that_a_tenant_made(site: Site, path: str) -> None:
    async with aiohttp.ClientSession() as nobody, nobody.get(site.gateway.url + path) as answer:
        text = await answer.text()
        assert answer.status == 200
    made = {name: each for name, each in site.things.items() if name != "model"}
    assert not [each for each in made.values() if each in text]


async def test_the_admin_api_has_the_routes_that_are_known(site: Site) -> None:
    app = admin_of(site.gateway.services, Reloader(site.gateway.services, None))
    found = routes_of(app.routes)
    assert {route for route in found if route[1].startswith("/admin")} == ADMIN
    assert {path for _, path in found if not path.startswith("/admin")} == ADMIN_OPEN


@pytest.mark.parametrize(("method", "path"), sorted(ADMIN))
async def test_the_admin_api_is_not_even_there_on_the_callers_port(
    site: Site, method: str, path: str
) -> None:
    status, _ = await site.a.ask(method, filled(path, site.things))
    assert status == 404
