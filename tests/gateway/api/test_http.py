"""What is not quite HTTP, or HTTP that few clients speak: the right status, and no harm done."""

import asyncio

import orjson
import pytest

from tests.gateway.api.conftest import HEADER_BYTES, SERVED
from tests.gateway.api.wire import Wire, exchange, request, wire
from tests.gateways import RunningGateway, running_gateway, until

CHAT = "/v1/chat/completions"
BODY = orjson.dumps(
    {"model": SERVED, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2}
)
STREAM = BODY[:-1] + b',"stream":true}'


@pytest.mark.parametrize(
    "garbage",
    [
        b"hello\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),  # a TLS hello
        b"GET / HTTP/9.9\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\ncontent-length: -1\r\n\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\ncontent-length: 99999999999999999999\r\n\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\n",
        b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\ncontent-length: 3\r\n\r\n",
        b"GET /v1/models HTTP/1.1\r\nbad header\r\n\r\n",
        b"GET /v1/models HTTP/1.1\r\n: empty\r\n\r\n",
        b"GET /v1/models HTTP/1.1\r\nx: a\x00b\r\n\r\n",
        b"GET /v1/mod\xffels HTTP/1.1\r\n\r\n",
        b"GET http://[::bad/ HTTP/1.1\r\n\r\n",
    ],
    ids=lambda value: repr(value)[:40],
)
async def test_garbage_is_400_and_ends_the_connection(
    small_gateway: RunningGateway, garbage: bytes
) -> None:
    async with wire(small_gateway.port) as connection:
        await connection.send(garbage)
        answer = await connection.reply()
        assert answer.status == 400
        assert answer.error["type"] == "invalid_request_error"
        assert await connection.is_closed()


async def test_a_bomb_of_headers_is_431(small_gateway: RunningGateway) -> None:
    for name, value in (("x-big", "y" * (HEADER_BYTES + 1)), ("z" * (HEADER_BYTES + 1), "1")):
        answer = await exchange(small_gateway.port, request(CHAT, BODY, headers={name: value}))
        assert answer.status == 431
        assert answer.error["code"] == "headers_too_large"
    many = {f"x-{n}": "v" for n in range(3000)}
    assert (await exchange(small_gateway.port, request(CHAT, BODY, headers=many))).status == 431
    url = request("/v1/" + "a" * HEADER_BYTES, method="GET")
    assert (await exchange(small_gateway.port, url)).status == 431


async def test_odd_values_of_headers_are_harmless(small_gateway: RunningGateway) -> None:
    for name, value in (
        ("x-stainless-read-timeout", "9" * 5000),
        ("x-stainless-read-timeout", "-1"),
        ("authorization", "\xff\xfe"),
        ("traceparent", "00-zz"),
        ("traceparent", "00-" + "0" * 32 + "-" + "0" * 16 + "-00"),
        ("tracestate", "a=" + "b" * 9000),
        ("x-request-id", "mine"),
        ("content-length", str(len(BODY))),
        ("accept-encoding", "gzip, br"),
        ("cookie", "\x80"),
    ):
        answer = await exchange(small_gateway.port, request(CHAT, BODY, headers={name: value}))
        assert answer.status == 200, (name, value[:10], answer.body)
        assert answer.headers["x-request-id"] != "mine"


async def test_pipelined_requests_are_answered_in_order(small_gateway: RunningGateway) -> None:
    models = request("/v1/models", method="GET")
    sent = [request(CHAT, STREAM), models, request(CHAT, BODY), request("/nope"), models]
    async with wire(small_gateway.port) as connection:
        await connection.send(b"".join(sent))
        found = [await connection.reply() for _ in sent]
    assert [r.status for r in found] == [200, 200, 200, 404, 200]
    assert found[0].body.endswith(b"data: [DONE]\n\n")
    assert orjson.loads(found[2].body)["object"] == "chat.completion"
    assert len({r.headers["x-request-id"] for r in found}) == len(found)


async def _in_pieces(connection: Wire, data: bytes, size: int) -> None:
    for at in range(0, len(data), size):
        await connection.send(data[at : at + size])
        await asyncio.sleep(0)


H2C = {
    "connection": "Upgrade, HTTP2-Settings",
    "upgrade": "h2c",
    "http2-settings": "AAEAAEAAAAIAAAAAAAMAAAAAAAQBAAAAAAUAAEAAAAYABgAA",
}


@pytest.mark.parametrize("size", [1_000_000, 37])
@pytest.mark.parametrize("chunked", [False, True])
async def test_a_request_that_asks_for_http_2_is_served_with_its_body(
    small_gateway: RunningGateway, size: int, chunked: bool
) -> None:
    # Java's HTTP client asks so with each first request of a connection.
    sent = request(CHAT, BODY, headers=H2C)
    if chunked:
        head = request(CHAT, headers={**H2C, "transfer-encoding": "chunked"})
        sent = head + b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)
    sent += request("/v1/models", method="GET", headers=H2C)
    async with wire(small_gateway.port) as connection:
        await _in_pieces(connection, sent, size)
        answer = await connection.reply()
        assert answer.status == 200, answer.body
        assert orjson.loads(answer.body)["object"] == "chat.completion"
        assert (await connection.reply()).status == 200
        await connection.send(request(CHAT, BODY, headers={"connection": "upgrade, close"}))
        assert (await connection.reply()).status == 200
        assert await connection.is_closed()


async def test_many_requests_that_ask_to_upgrade_are_all_answered(
    small_gateway: RunningGateway,
) -> None:
    one = request("/health", method="GET", headers={"connection": "upgrade", "upgrade": "x"})
    async with wire(small_gateway.port) as connection:
        await connection.send(one * 1000)
        for _ in range(1000):
            assert (await connection.reply()).status == 200


async def test_connect_is_refused(small_gateway: RunningGateway) -> None:
    for target in ("x:443", "/v1/models"):
        answer = await exchange(small_gateway.port, request(target, method="CONNECT"))
        assert answer.status in {400, 405}
        assert answer.error["type"] == "invalid_request_error"


async def test_garbage_after_a_request_does_not_spoil_its_answer(
    small_gateway: RunningGateway,
) -> None:
    async with wire(small_gateway.port) as connection:
        await connection.send(request(CHAT, STREAM) + b"\x00garbage\r\n\r\n")
        answer = await connection.reply()
        assert answer.status == 200
        assert answer.body.endswith(b"data: [DONE]\n\n")
        assert b"HTTP/1.1 400" not in answer.body


@pytest.mark.parametrize("keep_alive", [False, True])
async def test_http_1_0_is_answered_and_closed(
    small_gateway: RunningGateway, keep_alive: bool
) -> None:
    headers = {"connection": "keep-alive"} if keep_alive else {}
    for body in (BODY, STREAM):
        async with wire(small_gateway.port) as connection:
            await connection.send(request(CHAT, body, version="1.0", headers=headers))
            answer = await connection.reply()
            assert answer.status == 200
            assert await connection.is_closed()
        if body is STREAM:  # HTTP/1.0 knows no chunks: the end of the connection is the end
            assert "transfer-encoding" not in answer.headers
            assert answer.body.startswith(b"data: ")
            assert answer.body.endswith(b"data: [DONE]\n\n")


async def test_a_client_that_waits_for_100_continue_is_told_to_go_on(
    small_gateway: RunningGateway,
) -> None:
    head, _, body = request(CHAT, BODY, headers={"expect": "100-continue"}).partition(b"\r\n\r\n")
    async with wire(small_gateway.port) as connection:
        await connection.send(head + b"\r\n\r\n")
        interim = await connection.line()
        assert interim == b"HTTP/1.1 100 Continue\r\n"
        assert await connection.line() == b"\r\n"
        await connection.send(body)
        assert (await connection.reply()).status == 200


async def test_a_client_that_waits_for_100_continue_is_spared_a_refused_body(
    small_gateway: RunningGateway,
) -> None:
    headers = {"expect": "100-continue", "content-length": str(1 << 30)}
    answer = await exchange(small_gateway.port, request(CHAT, headers=headers))
    assert answer.status == 413


@pytest.mark.parametrize("path", ["/v1/models", CHAT, "/", "/nope", "/health"])
async def test_head_has_no_body(small_gateway: RunningGateway, path: str) -> None:
    async with wire(small_gateway.port) as connection:
        await connection.send(request(path, method="HEAD"))
        answer = await connection.reply(to_head=True)
        assert answer.status == {CHAT: 405, "/": 404, "/nope": 404}.get(path, 200)
        assert int(answer.headers["content-length"]) > 0
        await connection.send(request("/health", method="GET"))
        again = await connection.reply()
        assert again.status == 200
        assert orjson.loads(again.body) == {"status": "ok"}


@pytest.mark.parametrize("method", ["OPTIONS", "PUT", "PATCH", "DELETE", "TRACE", "PROPFIND"])
async def test_another_method_is_405(small_gateway: RunningGateway, method: str) -> None:
    answer = await exchange(small_gateway.port, request(CHAT, method=method))
    assert answer.status == 405
    assert answer.error["code"] == "method_not_allowed"
    assert "POST" in answer.headers["allow"]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/nothing"),
        ("GET", "/"),
        ("GET", "/v1"),
        ("POST", CHAT + "/"),
        ("POST", "/v1//chat/completions"),
        ("POST", "/V1/chat/completions"),
        ("GET", "/v1/models/"),
        ("GET", "/v1/../metrics/x"),
        ("GET", "/v1/%00"),
        ("GET", "/v1/%ff%fe"),
        ("GET", "/v1/fine_tuning/jobs"),
        ("POST", "/v1/moderations"),
        ("POST", "/v1/responses/compact"),
    ],
)
async def test_an_unknown_url_is_404(small_gateway: RunningGateway, method: str, path: str) -> None:
    answer = await exchange(small_gateway.port, request(path, method=method))
    assert answer.status == 404
    assert answer.error["code"] == "unknown_url"
    assert answer.error["message"].startswith(f"Invalid URL ({method} ")


@pytest.mark.parametrize(
    ("method", "path", "meant"),
    [
        ("POST", "/chat/completions", CHAT),
        ("POST", "/v1/v1/chat/completions", CHAT),
        ("POST", "/openai/v1/chat/completions", CHAT),
        ("POST", f"{CHAT}/", CHAT),
        ("POST", "//v1/chat/completions", CHAT),
        ("POST", "/v1/v1/messages?beta=true", "/v1/messages"),
        ("GET", "/models/org/some-model", "/v1/models/org/some-model"),
        ("GET", "/chat/completions", None),
        ("POST", "/v1/fine_tuning/jobs", None),
        ("GET", "/", None),
    ],
)
async def test_a_wrong_base_url_is_told_which_path_it_may_mean(
    small_gateway: RunningGateway, method: str, path: str, meant: str | None
) -> None:
    answer = await exchange(small_gateway.port, request(path, method=method))
    assert answer.status == 404
    hint = f". Did you mean {meant}?" if meant else ""
    assert answer.error["message"] == f"Invalid URL ({method} {path.split('?')[0]}){hint}"


async def test_ids_with_slashes_may_come_encoded_or_not(redis_url: str) -> None:
    name = "org/some-model"
    async with running_gateway(redis_url, {name: []}, ready=False) as gateway:
        for path in ("org%2Fsome-model", "org/some-model", "org%2fsome%2Dmodel"):
            answer = await exchange(gateway.port, request(f"/v1/models/{path}", method="GET"))
            assert answer.status == 200
            assert orjson.loads(answer.body)["id"] == name


async def test_a_slow_head_and_a_slow_body_are_408(redis_url: str) -> None:
    limits = {"head_timeout_s": 0.2, "body_timeout_s": 0.2}
    async with running_gateway(redis_url, {SERVED: []}, ready=False, limits=limits) as gateway:
        for part in (b"", b"POST ", b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nx-a"):
            async with wire(gateway.port) as connection:
                await connection.send(part)
                answer = await connection.reply()
                assert answer.status == 408
                assert answer.error["code"] == "request_timeout"
                assert await connection.is_closed()
        async with wire(gateway.port) as connection:
            await connection.send(request(CHAT, BODY)[:-5])
            answer = await connection.reply()
            assert answer.status == 408
            assert answer.error["code"] == "request_timeout"
            assert await connection.is_closed()
        await until(lambda: not gateway.server.server_state.connections)


async def test_a_slow_head_after_a_request_does_not_spoil_its_answer(
    redis_url: str, small_gateway: RunningGateway
) -> None:
    (url, *_) = [
        s.replica.url for s in small_gateway.services.registry.fleet.pool(SERVED).standings
    ]
    limits = {"head_timeout_s": 0.2}
    async with running_gateway(redis_url, {SERVED: [url]}, limits=limits) as gateway:
        long = STREAM.replace(b'"max_tokens":2', b'"max_tokens":60,"ignore_eos":true')
        async with wire(gateway.port) as connection:
            await connection.send(request(CHAT, long) + b"POST /v1/chat")
            answer = await connection.reply()
            assert answer.status == 200
            assert answer.body.endswith(b"data: [DONE]\n\n")
            assert await connection.is_closed()


async def test_what_still_comes_of_a_refused_body_does_not_hold_the_connection_for_ever(
    redis_url: str,
) -> None:
    limits = {"head_timeout_s": 0.3, "body_bytes": 4096}
    async with running_gateway(redis_url, {SERVED: []}, ready=False, limits=limits) as gateway:
        async with wire(gateway.port) as connection:
            await connection.send(request(CHAT, headers={"content-length": "1000000"}) + b"x" * 9)
            assert (await connection.reply()).status == 413
            with pytest.raises(ConnectionError):
                await _drip(connection)
        await until(lambda: not gateway.server.server_state.connections)


async def _drip(connection: Wire) -> None:
    """Send a little again and again, which keeps the connection from being idle."""
    for _ in range(2000):
        await connection.send(b"x")
        await asyncio.sleep(0.01)


async def test_too_many_connections_are_503(redis_url: str) -> None:
    async with (
        running_gateway(redis_url, {SERVED: []}, ready=False, limits={"connections": 1}) as gateway,
        wire(gateway.port) as first,
        wire(gateway.port) as second,
    ):
        answer = await second.reply()
        assert answer.status == 503
        assert answer.headers["retry-after"] == "1"
        await first.send(request("/health", method="GET"))
        assert (await first.reply()).status == 200
