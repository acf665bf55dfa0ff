"""For any call: what was known, what was chosen, what came second, and what happened."""

import asyncio
from collections.abc import Mapping
from typing import Any

import aiohttp
import httpx2
import pytest
from redis.asyncio import Redis

from backends.simulated.server import serve_replicas
from backends.simulated.settings import Faults, SimulatedSettings
from gateway.api.admin import admin_app
from gateway.api.explanations import explanation_routes
from gateway.api.health import router as probes
from gateway.explain_store import PREFIX
from gateway.explain_words import told
from tests.gateways import RunningGateway, running_gateway, until

MODEL = "llama2-70b"
KEY = "the-admin-key"


def chat(stream: bool = True, **more: Any) -> dict[str, Any]:
    asked = {"model": MODEL, "messages": [{"role": "user", "content": "Say something."}]}
    return {**asked, "stream": stream, "max_tokens": 8, "ignore_eos": True, **more}


async def ask(
    client: aiohttp.ClientSession, gateway: RunningGateway, **more: Any
) -> tuple[int, Mapping[str, str]]:
    url = f"{gateway.url}/v1/chat/completions"
    async with client.post(url, json=chat(**more)) as answer:
        await answer.read()
        return answer.status, answer.headers


async def record(gateway: RunningGateway, request_id: str) -> Mapping[str, Any]:
    found = await gateway.services.explanations.find(request_id)
    assert found is not None
    return found


def kinds(found: Mapping[str, Any]) -> list[str]:
    return [step.get("decision") or step["kind"] for step in found["steps"]]


async def test_a_routed_call_tells_its_candidates_and_its_margin(redis_url: str) -> None:
    async with (
        serve_replicas(SimulatedSettings(replicas=2)) as replicas,
        running_gateway(redis_url, {MODEL: [r.url for r in replicas]}) as gateway,
        aiohttp.ClientSession() as client,
    ):
        status, headers = await ask(client, gateway)
        found = await record(gateway, headers["x-request-id"])
    assert status == 200
    assert kinds(found) == ["admit", "slot"]
    decision = found["steps"][0]
    assert len(decision["candidates"]) == 2
    assert decision["limits"] == {"ttft_ms": 2000.0, "tpot_ms": 200.0}
    assert decision["margin_ms"] >= 0
    assert found["outcome"] == "ok"
    assert found["ttft_ms"] > 0
    words = told(found)
    assert "admitted: a slot was free" in words
    assert "  2. " in words
    assert "measured: TTFT" in words


async def test_a_call_that_waited_tells_for_what(redis_url: str) -> None:
    async with (
        serve_replicas(SimulatedSettings()) as replicas,
        running_gateway(redis_url, {MODEL: [replicas[0].url]}, max_running=1) as gateway,
        aiohttp.ClientSession() as client,
    ):
        both = await asyncio.gather(
            *(ask(client, gateway, max_tokens=30, service_tier="flex") for _ in range(2))
        )
        found = [await record(gateway, headers["x-request-id"]) for _, headers in both]
    waited = max(found, key=lambda each: float(each["queued_ms"]))
    assert kinds(waited) == ["wait", "slot"]
    assert waited["steps"][1]["waited_ms"] > 50
    assert "waited:" in told(waited)


async def test_a_call_that_was_told_at_the_door_tells_why_and_when_to_come_back(
    redis_url: str,
) -> None:
    async with (
        serve_replicas(SimulatedSettings()) as replicas,
        running_gateway(
            redis_url, {MODEL: [replicas[0].url]}, max_running=1, queue={"max_waiting": 0}
        ) as gateway,
        aiohttp.ClientSession() as client,
    ):
        both = await asyncio.gather(*(ask(client, gateway, max_tokens=30) for _ in range(2)))
        (headers,) = [headers for status, headers in both if status == 429]
        found = await record(gateway, headers["x-request-id"])
    assert kinds(found) == ["reject"]
    assert found["error_code"] == found["steps"][0]["reason"] == "queue_full"
    assert 1 <= int(headers["retry-after"]) <= 120
    assert "refused: as many calls wait as may" in told(found)


async def test_a_call_that_may_be_demoted_goes_on_as_another_class(redis_url: str) -> None:
    classes = {"interactive": {"demote_to": "offline", "patience_s": 0.2}}
    async with (
        serve_replicas(SimulatedSettings()) as replicas,
        running_gateway(
            redis_url, {MODEL: [replicas[0].url]}, max_running=1, classes=classes
        ) as gateway,
        aiohttp.ClientSession() as client,
    ):
        both = await asyncio.gather(
            *(ask(client, gateway, max_tokens=80, service_tier="priority") for _ in range(2))
        )
        found = [await record(gateway, headers["x-request-id"]) for _, headers in both]
    assert [status for status, _ in both] == [200, 200]
    demoted = max(found, key=lambda each: len(each["steps"]))
    assert "demoted from interactive to offline" in told(demoted)
    assert demoted["steps"][-1]["kind"] == "slot"


async def test_a_retried_call_tells_what_failed(redis_url: str) -> None:
    async with (
        serve_replicas(SimulatedSettings(faults=Faults(fail_rate=1.0))) as bad,
        serve_replicas(SimulatedSettings()) as good,
        running_gateway(redis_url, {MODEL: [bad[0].url, good[0].url]}) as gateway,
        aiohttp.ClientSession() as client,
    ):
        found: list[Mapping[str, Any]] = []
        while not any(each["attempts"] == 2 for each in found):
            both = await asyncio.gather(*(ask(client, gateway, stream=False) for _ in range(2)))
            assert [status for status, _ in both] == [200, 200]
            found += [await record(gateway, headers["x-request-id"]) for _, headers in both]
    retried = next(each for each in found if each["attempts"] == 2)
    assert kinds(retried) == ["admit", "slot", "event", "admit", "slot"]
    assert "failed: " in told(retried)
    assert "in 2 attempts" in told(retried)


async def test_a_call_whose_caller_hung_up_says_so(redis_url: str, redis: Redis) -> None:
    async with (
        serve_replicas(SimulatedSettings()) as replicas,
        running_gateway(redis_url, {MODEL: [replicas[0].url]}) as gateway,
        aiohttp.ClientSession() as client,
    ):
        async with client.post(
            f"{gateway.url}/v1/chat/completions", json=chat(max_tokens=2000)
        ) as answer:
            await answer.content.readany()
            request_id = answer.headers["x-request-id"]
            answer.close()
        await until(lambda: not gateway.leftovers()["slots"])
        found = await record(gateway, request_id)
        await gateway.services.explanations.write()
        ttl_s = await redis.ttl(PREFIX + request_id)
    assert found["outcome"] == "caller_left"
    assert "ended caller_left" in told(found)
    assert 3500 < ttl_s <= 3600


async def test_the_short_form_is_for_tenants_that_may_see_it(redis_url: str) -> None:
    async with (
        serve_replicas(SimulatedSettings()) as replicas,
        running_gateway(
            redis_url, {MODEL: [replicas[0].url]}, explain={"headers_for": ["default"]}
        ) as gateway,
        aiohttp.ClientSession() as client,
    ):
        for stream in (True, False):
            _, headers = await ask(client, gateway, stream=stream)
            assert headers["x-sluice-class"] == "server"
            assert headers["x-sluice-replica"]
            assert int(headers["x-sluice-predicted-ttft-ms"]) > 0
    async with (
        serve_replicas(SimulatedSettings()) as replicas,
        running_gateway(redis_url, {MODEL: [replicas[0].url]}) as gateway,
        aiohttp.ClientSession() as client,
    ):
        _, headers = await ask(client, gateway)
    assert "x-sluice-replica" not in headers


async def test_the_admin_api_tells_a_record_and_says_where_there_is_none(redis_url: str) -> None:
    async with (
        serve_replicas(SimulatedSettings()) as replicas,
        running_gateway(redis_url, {MODEL: [replicas[0].url]}, admin_key=KEY) as gateway,
        aiohttp.ClientSession() as client,
    ):
        _, headers = await ask(client, gateway)
        services = gateway.services
        app = admin_app(services, probes=probes, more=[explanation_routes(services.explanations)])
        transport = httpx2.ASGITransport(app)
        async with httpx2.AsyncClient(
            transport=transport,
            base_url="http://admin",
            headers={"authorization": f"Bearer {KEY}"},
        ) as admin:
            found = await admin.get(f"/admin/calls/{headers['x-request-id']}")
            missing = await admin.get("/admin/calls/req_nobody")
            keyless = await admin.get("/admin/calls/x", headers={"authorization": "Bearer no"})
    assert found.json()["words"].startswith(headers["x-request-id"])
    assert missing.status_code == 404
    assert keyless.status_code == 401


@pytest.mark.parametrize("hint", ["soon", "-3"])
async def test_a_hint_that_is_no_time_is_refused(redis_url: str, hint: str) -> None:
    async with (
        serve_replicas(SimulatedSettings()) as replicas,
        running_gateway(redis_url, {MODEL: [replicas[0].url]}) as gateway,
        aiohttp.ClientSession(headers={"x-slo-ttft-ms": hint}) as client,
    ):
        status, _ = await ask(client, gateway)
    assert status == 400


async def test_records_are_kept_up_to_a_rate(redis_url: str, redis: Redis) -> None:
    async with (
        serve_replicas(SimulatedSettings()) as replicas,
        running_gateway(
            redis_url, {MODEL: [replicas[0].url]}, explain={"records_per_s": 1.0}
        ) as gateway,
        aiohttp.ClientSession() as client,
    ):
        ids = [(await ask(client, gateway))[1]["x-request-id"] for _ in range(6)]
        await gateway.services.explanations.write()
        kept = [name for name in ids if await redis.exists(PREFIX + name)]
        assert 1 <= len(kept) <= 3
        assert await gateway.services.explanations.find(ids[-1]) is not None  # at hand here
