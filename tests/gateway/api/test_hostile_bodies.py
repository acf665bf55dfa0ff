"""Bodies that nobody should send: refused in OpenAI's envelope with the field, and no harm done."""

import gzip
import json
import os
from collections.abc import AsyncIterator

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.gateway.api.conftest import BODY_BYTES, SERVED
from tests.gateway.api.wire import Reply, Wire, exchange, request, wire
from tests.gateways import RunningGateway, until

CHAT = "/v1/chat/completions"
ROUTES = (
    CHAT,
    "/v1/completions",
    "/v1/embeddings",
    "/v1/responses",
    "/v1/responses/input_tokens",
    "/v1/rerank",
    "/v1/score",
    "/v1/classify",
    "/v1/tokenize",
    "/v1/detokenize",
)
HELLO = {"model": SERVED, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1}


@pytest.fixture(autouse=True)
async def unharmed(small_gateway: RunningGateway) -> AsyncIterator[None]:
    """After each test nothing is left and the same process serves."""
    before = os.getpid()
    yield
    await until(lambda: not any(small_gateway.leftovers().values()))
    answer = await exchange(small_gateway.port, request(CHAT, orjson.dumps(HELLO)))
    assert answer.status == 200
    assert os.getpid() == before


async def post(gateway: RunningGateway, path: str, body: bytes, **headers: str) -> Reply:
    """Send one body."""
    return await exchange(gateway.port, request(path, body, headers=headers))


def with_field(text: str) -> bytes:
    """Give a good chat body with one more field, as it would be written."""
    return orjson.dumps(HELLO)[:-1] + b"," + text.encode() + b"}"


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b"[[[[{}]]]]",
        b"3",
        b'"model"',
        b"{}",
        b"{'model': 'x'}",
        b'{"model": "x"} trailing',
        b"\xff\xfe{\x00}\x00",
        b'{"model": "\xff"}',
        b'{"model": NaN}',
        b"\x00" * 100,
        b"[" * 100_000,
        b'{"model":' * 20_000,
        b'{"x":' * 20_000,
        b"\xef\xbb\xbf{}",
    ],
    ids=lambda value: repr(value)[:24],
)
async def test_what_is_no_object_is_refused(
    small_gateway: RunningGateway, path: str, body: bytes
) -> None:
    answer = await post(small_gateway, path, body)
    assert answer.status == 400
    assert answer.error["type"] == "invalid_request_error"
    assert answer.error["code"] in {"invalid_json", "invalid_type", "missing_required_parameter"}


@pytest.mark.parametrize(
    ("text", "param"),
    [
        ('"temperature": 1e400', "temperature"),
        ('"temperature": NaN', None),
        ('"temperature": Infinity', None),
        ('"max_tokens": 99999999999999999999999999', "max_tokens"),
        ('"max_tokens": 1e30', "max_tokens"),
        ('"n": -99999999999999999999', "n"),
        ('"n": 129', "n"),
        ('"seed": 18446744073709551616', "seed"),
        ('"model": ""', "model"),
        ('"model": 3', "model"),
        ('"model": ["a"]', "model"),
        ('"stop": {}', "stop"),
        ('"messages": [[]]', "messages[0]"),
        ('"messages": [null]', "messages[0]"),
        ('"messages": {"role": "user"}', "messages"),
        ('"messages": [{"role": "user", "content": [{"text": 3}]}]', "messages[0].content[0]"),
        ('"stream_options": []', "stream_options"),
        ('"stream": 1', "stream"),
        ('"tools": "x"', "tools"),
        ('"tools": [{"type": "function", "function": {"name": ""}}]', "tools[0].function.name"),
        ('"logit_bias": {"1": "x"}', "logit_bias"),
        ('"response_format": []', "response_format"),
        ('"metadata": {"k": "%s"}' % ("x" * 513), "metadata"),
        ('"top_logprobs": -1', "top_logprobs"),
    ],
)
async def test_a_wrong_value_is_named(
    small_gateway: RunningGateway, text: str, param: str | None
) -> None:
    answer = await post(small_gateway, CHAT, with_field(text))
    assert answer.status == 400
    if param is None:
        assert answer.error["code"] == "invalid_json"
    else:
        assert (answer.error["param"] or "").startswith(param), answer.error


@pytest.mark.parametrize(
    "text",
    [
        '"unknown": %s' % ("[" * 500 + "]" * 500),
        '"unknown": 123456789012345678901234567890',
        '"unknown": 1e400',
        '"unknown": {"a": {"a": 1, "a": 2}}',
        '"temperature": 1, "temperature": 0.5',
        '"user": "\\u0000"',
        '"": 1',
        '"stream": null, "stop": null, "tools": null, "stream_options": null',
        '"rid": {"a": [1]}, "priority": "high", "bootstrap_host": 5',
        '"\\u0072id": "mine"',
        '"seed": -9223372036854775808',
    ],
    ids=lambda value: value[:32],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_what_is_odd_but_json_never_breaks_anything(
    small_gateway: RunningGateway, text: str, stream: bool
) -> None:
    body = with_field(text + (', "stream": true' if stream else ""))
    answer = await post(small_gateway, CHAT, body)
    assert answer.status in {200, 400}, answer.body
    if answer.status == 400:
        assert answer.error["type"] == "invalid_request_error"


@pytest.mark.parametrize("where", ["content", "unknown", "key"])
@pytest.mark.parametrize("rest", ["", ', "rid": "x"', ', "stream": true'])
async def test_half_a_surrogate_pair_is_served_or_named(
    small_gateway: RunningGateway, where: str, rest: str
) -> None:
    # JSON.stringify of JavaScript writes a lone half as an escape, which is JSON.
    text = {
        "content": '"messages": [{"role": "user", "content": "a\\ud83d b"}]',
        "unknown": '"unknown": "\\ud83d"',
        "key": '"\\ud83d": 1',
    }[where]
    answer = await post(small_gateway, CHAT, with_field(text + rest))
    if answer.status != 200:
        assert answer.status == 400
        assert "surrogate" in answer.error["message"]


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        ("text/plain", 415),
        ("application/x-www-form-urlencoded", 415),
        ("multipart/form-data; boundary=x", 415),
        ("application/jsonp", 415),
        ("", 200),
        ("APPLICATION/JSON; charset=utf-8", 200),
        ("application/vnd.api+json", 200),
    ],
)
async def test_the_content_type_decides(
    small_gateway: RunningGateway, kind: str, status: int
) -> None:
    answer = await post(small_gateway, CHAT, orjson.dumps(HELLO), **{"content-type": kind})
    assert answer.status == status
    if status == 415:
        assert answer.error["code"] == "unsupported_media_type"


async def test_a_compressed_body_is_415_and_a_plain_one_may_say_so(
    small_gateway: RunningGateway,
) -> None:
    packed = gzip.compress(orjson.dumps(HELLO))
    for coding in ("gzip", "zstd", "gzip, br"):
        answer = await post(small_gateway, CHAT, packed, **{"content-encoding": coding})
        assert answer.status == 415
        assert "Content-Encoding" in answer.error["message"]
    plain = orjson.dumps(HELLO)
    answer = await post(small_gateway, CHAT, plain, **{"content-encoding": "Identity"})
    assert answer.status == 200


@pytest.mark.parametrize(
    ("body", "why"), [(b"", "empty"), (b"\xef\xbb\xbf{}", "byte order mark"), (b"{", "truncated")]
)
async def test_what_is_wrong_with_the_json_is_said(
    small_gateway: RunningGateway, body: bytes, why: str
) -> None:
    assert why in (await post(small_gateway, CHAT, body)).error["message"]


@pytest.mark.parametrize("text", [b"\xff", b"\\ud83d", b"[" * 3000 + b"]" * 3000])
@pytest.mark.parametrize("path", ["/v1/messages", "/v1/rerank", "/v1/embeddings"])
async def test_media_in_what_cannot_be_read_are_no_fault_of_ours(
    small_gateway: RunningGateway, path: str, text: bytes
) -> None:
    value = text if text.startswith(b"[") else b'"%b"' % text
    body = b'{"model": "%b", "messages": [%b, {"image": "x"}], "input": %b, "query": %b}'
    answer = await post(small_gateway, path, body % (SERVED.encode(), value, value, value))
    assert answer.status == 400, answer.body


async def test_a_multipart_body_to_a_json_route_is_drained_and_the_connection_lives(
    small_gateway: RunningGateway,
) -> None:
    body = b"--x\r\ncontent-disposition: form-data; name=a\r\n\r\n" + b"y" * 200_000 + b"\r\n--x--"
    kind = {"content-type": "multipart/form-data; boundary=x"}
    async with wire(small_gateway.port) as connection:
        for path in (CHAT, "/v1/nothing", "/v1/models"):
            await connection.send(request(path, body, headers=kind))
            assert (await connection.reply()).error
        await _serves(connection)


async def test_a_body_over_the_limit_is_413_however_it_comes(small_gateway: RunningGateway) -> None:
    big = with_field('"user": "%s"' % ("x" * BODY_BYTES))
    assert (await post(small_gateway, CHAT, big)).error["code"] == "request_too_large"
    chunked = request(CHAT, headers={"transfer-encoding": "chunked"})
    for at in range(0, len(big), 10_000):
        piece = big[at : at + 10_000]
        chunked += b"%x\r\n%b\r\n" % (len(piece), piece)
    async with wire(small_gateway.port) as connection:
        await connection.send(chunked + b"0\r\n\r\n")
        answer = await connection.reply()
        assert answer.status == 413
        assert answer.error["code"] == "request_too_large"
        await _serves(connection)


async def test_a_declared_gibibyte_is_refused_before_it_comes(
    small_gateway: RunningGateway,
) -> None:
    head = request(CHAT, headers={"content-length": str(1 << 30)})
    async with wire(small_gateway.port) as connection:
        await connection.send(head + b"{")
        answer = await connection.reply()
        assert answer.status == 413
        assert answer.error["code"] == "request_too_large"


async def _serves(connection: Wire) -> None:
    await connection.send(request(CHAT, orjson.dumps(HELLO)))
    assert (await connection.reply()).status == 200


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=12,
)
FIELDS = (
    "messages prompt input stream stream_options n temperature tools tool_choice stop logit_bias "
    "response_format max_tokens logprobs rid service_tier metadata instructions text reasoning "
    "query documents items tokens previous_response_id include seed"
)


@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    path=st.sampled_from(ROUTES),
    fields=st.dictionaries(st.sampled_from(FIELDS.split()), json_values, max_size=5),
)
async def test_no_document_is_answered_with_a_fault_of_ours(
    small_gateway: RunningGateway, path: str, fields: dict[str, object]
) -> None:
    body = json.dumps({"model": SERVED, "max_tokens": 2, **fields}).encode()
    answer = await post(small_gateway, path, body)
    assert answer.status < 500, (path, body, answer.body)
    if answer.status >= 400:
        assert answer.error
