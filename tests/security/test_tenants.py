"""Can one tenant reach what is another's by a body, through a batch, or by what an engine keeps?

Paths are in test_isolation_matrix.py.
"""

from typing import Any

import pytest

from gateway.errors import NotFound
from gateway.isolation import salt_of
from gateway.settings_serving import Isolation
from tests.security.tenants import LINE, MODEL, OTHER_MODEL, VIDEO_MODEL, Caller, Site, filled


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
    """It is looked for when the batch is made and again by the worker, as the batch's tenant."""
    files, file_id = site.gateway.services.files, site.things["file_id"]
    assert (await files.find("a", file_id)).tenant == "a"
    with pytest.raises(NotFound):
        await files.find("b", file_id)


async def test_an_idempotency_key_of_another_tenant_s_finds_nothing(site: Site) -> None:
    body = {"model": VIDEO_MODEL, "prompt": "the same words"}
    ids = []
    for caller in (site.a, site.a, site.b):
        status, answer = await caller.ask(
            "POST", "/v1/videos", json=body, headers={"Idempotency-Key": "one-key"}
        )
        assert status == 200, answer
        ids.append(answer["id"])
    assert ids[0] == ids[1]
    assert ids[2] != ids[0]


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
