"""What becomes of media that a caller names by URL, with a real server as the place they name."""

import base64
from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest
from aiohttp import web

from gateway.errors import InvalidRequest
from gateway.media import settled
from gateway.settings_jobs import FetchSettings
from gateway.wire.body import Body

PNG = b"\x89PNG\r\n\x1a\n" + b"\0" * 16
AS_DATA = f"data:image/png;base64,{base64.b64encode(PNG).decode()}"


@pytest.fixture
async def site() -> AsyncIterator[str]:
    """A server with an image and a page, on loopback: a private address."""

    async def image(_: web.Request) -> web.Response:
        return web.Response(body=PNG)

    async def page(_: web.Request) -> web.Response:
        return web.Response(text="secret of the inside")

    app = web.Application()
    app.router.add_get("/cat.png", image)
    app.router.add_get("/page", page)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


def chat(*parts: Any, **more: Any) -> Body:
    messages = [{"role": "user", "content": list(parts)}]
    return Body(orjson.dumps({"model": "m", "seed": 2**63 - 1, "messages": messages, **more}))


def image_url(url: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}


async def test_a_body_without_media_is_given_back_as_it_is() -> None:
    body = Body(b'{"model":"m","messages":[{"role":"user","content":"see http://a/b.png"}]}')
    assert await settled(body, FetchSettings()) is body


async def test_data_urls_pass() -> None:
    body = chat(image_url(AS_DATA))
    assert await settled(body, FetchSettings(urls="forbid")) is body


async def test_an_image_is_fetched_and_handed_on_as_data(site: str) -> None:
    how = FetchSettings(allow_private=True)
    found = orjson.loads((await settled(chat(image_url(f"{site}/cat.png")), how)).raw)
    assert found["messages"][0]["content"] == [image_url(AS_DATA)]
    assert found["seed"] == 2**63 - 1


async def test_an_anthropic_source_becomes_one_of_base64(site: str) -> None:
    source = {"type": "image", "source": {"type": "url", "url": f"{site}/cat.png"}}
    found = orjson.loads((await settled(chat(source), FetchSettings(allow_private=True))).raw)
    got = found["messages"][0]["content"][0]["source"]
    assert got["type"] == "base64"
    assert base64.b64decode(got["data"]) == PNG


@pytest.mark.parametrize(
    "url",
    [
        "http://169.254.169.254/latest/meta-data",
        "http://127.0.0.1:1/x.png",
        "http://[::1]/x.png",
        "http://10.0.0.1/x.png",
        "http://localhost/x.png",
        "file:///etc/passwd",
        "/etc/passwd.png",
        "ftp://example.com/x.png",
    ],
)
async def test_what_is_not_public_is_refused(url: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await settled(chat(image_url(url)), FetchSettings())
    assert caught.value.code == "invalid_media_url"
    assert caught.value.param == "messages"


async def test_what_is_no_image_never_reaches_the_model(site: str) -> None:
    with pytest.raises(InvalidRequest, match="image is needed"):
        await settled(chat(image_url(f"{site}/page")), FetchSettings(allow_private=True))


async def test_a_key_that_is_written_with_escapes_is_found() -> None:
    raw = chat(image_url("http://127.0.0.1/x.png")).raw.replace(b"image_url", b"im\\u0061ge_url")
    with pytest.raises(InvalidRequest):
        await settled(Body(raw), FetchSettings())


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": "http://127.0.0.1/x.png"},
        {"type": "video_url", "video_url": {"url": "http://93.184.215.14/x.mp4"}},
        {"type": "audio_url", "audio_url": {"url": "http://127.0.0.1/x.wav"}},
        {"text": "t", "image": "http://127.0.0.1/x.png"},
    ],
)
async def test_every_way_to_name_media_is_known(part: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest):
        await settled(chat(part), FetchSettings())
    with pytest.raises(InvalidRequest):
        await settled(Body(orjson.dumps({"model": "m", "input": [part]})), FetchSettings())


async def test_many_urls_are_refused_before_one_is_fetched() -> None:
    body = chat(*[image_url("http://127.0.0.1/x.png")] * 3)
    with pytest.raises(InvalidRequest, match="at most 2"):
        await settled(body, FetchSettings(most_images=2))


async def test_urls_in_tools_and_metadata_are_no_media() -> None:
    tool = {
        "type": "function",
        "function": {"name": "f", "parameters": {"properties": {"image": {"type": "string"}}}},
    }
    body = chat({"type": "text", "text": "hi"}, tools=[tool], metadata={"image": "http://a"})
    assert await settled(body, FetchSettings()) is body


async def test_pass_leaves_all_to_the_engine() -> None:
    body = chat(image_url("http://127.0.0.1/x.png"))
    assert await settled(body, FetchSettings(urls="pass")) is body
