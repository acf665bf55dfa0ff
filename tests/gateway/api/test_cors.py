"""Which pages in a browser may call the API?"""

from collections.abc import Sequence

import aiohttp
import pytest

from gateway.config import ConfigError, load
from tests.engines import scripted_engine
from tests.gateway.relay.test_connections import answers
from tests.gateway.relay.test_relay import CHAT, direct
from tests.gateways import MODEL, running_gateway

__all__ = ["direct"]

PAGE = "https://chat.example.com"
ALLOWS, EXPOSES = "access-control-allow-origin", "access-control-expose-headers"


@pytest.mark.parametrize(
    ("origins", "allowed"),
    [([PAGE], PAGE), (["*"], "*"), (["https://x.example"], None), ([], None)],
)
async def test_pages_of_named_origins_read_answers_and_refusals(
    redis_url: str, direct: bool, origins: Sequence[str], allowed: str | None
) -> None:
    async with (
        scripted_engine(answers) as engine,
        running_gateway(
            redis_url, {MODEL: [engine.url]}, direct=direct, cors={"origins": origins}
        ) as gateway,
        aiohttp.ClientSession(gateway.url) as session,
    ):
        asked = {
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "authorization,content-type",
        }
        for path in ("/v1/chat/completions", "/v1/files"):  # preflights carry no key
            async with session.options(path, headers={"Origin": PAGE, **asked}) as reply:
                assert reply.status == (405 if allowed is None else 204)
                assert reply.headers.get(ALLOWS) == allowed
                if allowed is not None:
                    assert "POST" in reply.headers["access-control-allow-methods"]
                    wanted = asked["Access-Control-Request-Headers"]
                    assert reply.headers["access-control-allow-headers"] == wanted
        for body, status in (
            (CHAT, 200),
            ({**CHAT, "stream": True}, 200),
            ({**CHAT, "model": "nobody"}, 404),
        ):
            for headers in ({"Origin": PAGE}, {}):
                async with session.post(
                    "/v1/chat/completions", json=body, headers=headers
                ) as reply:
                    assert reply.status == status
                    told = reply.headers.getall(ALLOWS, [])
                    assert told == ([allowed] if allowed and headers else [])
                    assert (EXPOSES in reply.headers) == bool(told)
                    assert (reply.headers.get("vary") == "origin") == (told == [PAGE])
        async with session.get("/v1/models", headers={"Origin": PAGE}) as reply:
            assert reply.headers.getall(ALLOWS, []) == ([allowed] if allowed else [])
        async with session.get("/nowhere", headers={"Origin": PAGE}) as reply:
            assert reply.headers.getall(ALLOWS, []) == ([allowed] if allowed else [])


@pytest.mark.parametrize("origin", ["chat.example.com", "https://chat.example.com/", "null", ""])
def test_an_origin_is_a_scheme_and_a_host(origin: str) -> None:
    with pytest.raises(ConfigError, match=r"cors\.origins"):
        load(None, {}, {"cors": {"origins": [origin]}})
