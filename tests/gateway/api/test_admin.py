"""The admin API on a real registry and real keys."""

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass

import httpx2
import pytest
from fastapi import APIRouter
from redis.asyncio import Redis
from structlog.testing import capture_logs

from backends.clock import Clock, SystemClock
from backends.registry import Registry, replica_id
from backends.store import connect
from gateway.api.admin import admin_app
from gateway.auth import Authenticator
from gateway.keys import KeyStore
from gateway.settings import Settings

KEY = "the-admin-key"


@dataclass(frozen=True, slots=True)
class Services:
    settings: Settings
    clock: Clock
    registry: Registry
    keys: KeyStore
    authenticator: Authenticator


def services_on(redis: Redis, settings: Settings) -> Services:
    clock = SystemClock()
    keys = KeyStore(redis, clock)
    registry = Registry(redis, configured=settings.adopted_replicas())
    return Services(settings, clock, registry, keys, Authenticator(keys, clock))


def settings_with(key: str | None = KEY) -> Settings:
    model = {"served_name": "inner", "engine": "embedded", "hardware": "cpu"}
    return Settings.model_validate({"admin_key": key, "models": {"m": model}})


@pytest.fixture
def services(redis: Redis) -> Services:
    return services_on(redis, settings_with())


def client_of(services: Services, key: str | None = KEY) -> httpx2.AsyncClient:
    probes = APIRouter()

    @probes.get("/livez")
    async def alive() -> dict[str, str]:
        return {"status": "ok"}

    app = admin_app(services, probes=probes)
    headers = {} if key is None else {"authorization": f"Bearer {key}"}
    transport = httpx2.ASGITransport(app, raise_app_exceptions=False)
    return httpx2.AsyncClient(transport=transport, base_url="http://admin", headers=headers)


@pytest.fixture
async def admin(services: Services) -> AsyncIterator[httpx2.AsyncClient]:
    async with client_of(services) as client:
        yield client


def error_of(answer: httpx2.Response) -> dict[str, str | None]:
    """Give the error; it has OpenAI's four keys and no other."""
    body = answer.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    found: dict[str, str | None] = body["error"]
    return found


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/admin/replicas"),
        ("POST", "/admin/replicas"),
        ("DELETE", "/admin/keys/x"),
        ("GET", "/admin/nothing"),
    ],
)
@pytest.mark.parametrize(
    "given", [None, "Bearer other", f"Basic {KEY}", KEY, "Bearer ", "Bearer \xe9"]
)
async def test_nobody_comes_in_without_the_admin_key(
    services: Services, method: str, path: str, given: str | None
) -> None:
    headers = [] if given is None else [(b"authorization", given.encode("latin-1"))]
    async with client_of(services, None) as client:
        answer = await client.request(method, path, headers=headers)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert "other" not in str(error_of(answer)["message"])


async def test_without_an_admin_key_the_admin_api_is_closed(redis: Redis) -> None:
    async with client_of(services_on(redis, settings_with(None)), "") as client:
        assert (await client.get("/admin/replicas")).status_code == 403
        assert (await client.get("/livez")).status_code == 200


async def test_a_replica_is_added_seen_drained_resumed_and_removed(
    admin: httpx2.AsyncClient, services: Services
) -> None:
    new = {"model": "m", "url": "http://node-1:30000/", "site": "eu", "api_key": "hidden"}
    added = await admin.post("/admin/replicas", json=new)
    assert added.status_code == 201
    name = added.json()["id"]
    assert name == replica_id("m", "http://node-1:30000")
    assert "hidden" not in added.text

    await services.registry.refresh()
    listed = (await admin.get("/admin/replicas")).json()
    (shown,) = listed["data"]
    assert listed["object"] == "list"
    assert (shown["id"], shown["url"], shown["site"]) == (name, "http://node-1:30000", "eu")
    assert (shown["engine"], shown["hardware"], shown["served_name"]) == (
        "embedded",
        "cpu",
        "inner",
    )
    assert shown["health"]["state"] == "unknown"
    assert shown["load"] is None
    standing = services.registry.fleet.standing(name)
    assert standing is not None
    assert standing.replica.api_key == "hidden"

    assert (await admin.post(f"/admin/replicas/{name}/drain")).json()["draining"] is True
    await services.registry.refresh()
    (shown,) = (await admin.get("/admin/replicas")).json()["data"]
    assert shown["health"]["state"] == "draining"
    assert (await admin.post(f"/admin/replicas/{name}/resume")).json()["draining"] is False
    assert (await admin.delete(f"/admin/replicas/{name}")).json() == {"id": name, "deleted": True}
    await services.registry.refresh()
    assert (await admin.get("/admin/replicas")).json()["data"] == []
    assert (await admin.delete(f"/admin/replicas/{name}")).status_code == 404


@pytest.mark.parametrize("action", ["drain", "resume"])
async def test_an_unknown_replica_is_told(admin: httpx2.AsyncClient, action: str) -> None:
    answer = await admin.post(f"/admin/replicas/nobody/{action}")
    assert answer.status_code == 404
    assert "nobody" in str(error_of(answer)["message"])


@pytest.mark.parametrize(
    ("path", "body", "param", "code"),
    [
        ("replicas", {"url": "http://n"}, "model", "missing_required_parameter"),
        ("replicas", {"model": "m", "url": "n:1"}, "url", "invalid_value"),
        ("replicas", {"model": "m", "url": "http://n", "engine": "x"}, "engine", "invalid_value"),
        ("replicas", {"model": 5, "url": "http://n"}, "model", "invalid_type"),
        ("replicas", {"model": "m", "url": "http://n", "x": 1}, "x", "unknown_parameter"),
        ("replicas", [], None, "invalid_type"),
        ("keys", {"classes": ["gold"]}, "classes", "invalid_value"),
        ("keys", {"default_class": "gold"}, "default_class", "invalid_value"),
        (
            "keys",
            {"classes": ["server"], "default_class": "offline"},
            "default_class",
            "invalid_value",
        ),
        ("keys", {"expires_at": 5}, "expires_at", "invalid_value"),
        ("keys", {"models": "m"}, "models", "invalid_type"),
    ],
)
async def test_a_wrong_body_is_told_with_its_field(
    admin: httpx2.AsyncClient, path: str, body: object, param: str | None, code: str
) -> None:
    answer = await admin.post(f"/admin/{path}", json=body)
    assert answer.status_code == 400
    error = error_of(answer)
    assert (error["param"], error["code"]) == (param, code)


async def test_what_is_no_json_and_what_is_no_route_are_told(admin: httpx2.AsyncClient) -> None:
    headers = {"content-type": "application/json"}
    answer = await admin.post("/admin/keys", content=b"{", headers=headers)
    assert (answer.status_code, error_of(answer)["code"]) == (400, "invalid_json")
    answer = await admin.post("/admin/keys", content=b" " * 70_000, headers=headers)
    assert answer.status_code == 413
    answer = await admin.get("/admin/nothing")
    assert (answer.status_code, error_of(answer)["code"]) == (404, "unknown_url")
    assert (await admin.put("/admin/keys")).status_code == 405


async def test_keys_are_made_shown_once_and_revoked(
    admin: httpx2.AsyncClient, services: Services
) -> None:
    new = {"name": "Ada", "tenant": "acme", "models": ["m"], "classes": ["server"]}
    made = await admin.post("/admin/keys", json=new)
    assert made.status_code == 201
    key, name = made.json()["key"], made.json()["id"]
    listed = await admin.get("/admin/keys")
    assert key not in listed.text
    (shown,) = listed.json()["data"]
    assert (shown["name"], shown["models"], shown["revoked_at"]) == ("Ada", ["m"], None)

    header = f"Bearer {key}".encode()
    assert (await services.authenticator.identify(header, None)).tenant == "acme"
    assert (await admin.delete(f"/admin/keys/{name}")).json()["revoked_at"] is not None
    with pytest.raises(Exception, match="Incorrect API key"):
        await services.authenticator.identify(header, None)
    assert (await admin.delete("/admin/keys/nobody00")).status_code == 404


async def test_every_change_is_logged_with_who_and_what_and_no_secret(
    admin: httpx2.AsyncClient,
) -> None:
    with capture_logs() as logs:
        key = (await admin.post("/admin/keys", json={})).json()["key"]
        new = {"model": "m", "url": "http://n", "api_key": "hidden"}
        name = (await admin.post("/admin/replicas", json=new)).json()["id"]
        await admin.post(f"/admin/replicas/{name}/drain")
        await admin.delete(f"/admin/replicas/{name}")
        await admin.get("/admin/replicas")
    writes = [each for each in logs if each["event"] == "admin_write"]
    assert [each["action"] for each in writes] == [
        "key.create",
        "replica.add",
        "replica.drain",
        "replica.remove",
    ]
    assert all(each["actor"] == "admin@127.0.0.1" for each in writes)
    assert key not in json.dumps(logs, default=str)
    assert "hidden" not in json.dumps(logs, default=str)


async def test_a_store_that_is_away_is_told_as_503() -> None:
    redis = connect("redis://127.0.0.1:1/0")
    try:
        async with client_of(services_on(redis, settings_with())) as client:
            for answer in (
                await client.get("/admin/keys"),
                await client.post("/admin/replicas", json={"model": "m", "url": "http://n"}),
            ):
                assert answer.status_code == 503
                assert int(answer.headers["retry-after"]) >= 1
                assert error_of(answer)["type"] == "service_unavailable_error"
    finally:
        await redis.aclose()


async def test_a_bug_is_told_without_detail(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(_: object) -> None:
        raise ZeroDivisionError("secret detail")

    monkeypatch.setattr(KeyStore, "list", fail)
    async with client_of(services) as client:
        answer = await client.get("/admin/keys")
    assert answer.status_code == 500
    assert "detail" not in answer.text
    assert error_of(answer)["type"] == "server_error"
