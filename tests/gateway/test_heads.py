"""Heads that a connection words by itself."""

import orjson

from gateway.errors import RequestTimeout
from gateway.heads import last_answer, without_upgrade


def test_a_request_that_asks_for_another_protocol_is_read_without_it() -> None:
    lines = [
        (b"host", b"x"),
        (b"connection", b"Upgrade, keep-alive, HTTP2-Settings"),
        (b"upgrade", b"h2c"),
        (b"http2-settings", b"AAEAAEAAAAIAAAAB"),
        (b"content-length", b"2"),
    ]
    assert without_upgrade(b"POST", b"/v1/models?a", "1.1", lines) == (
        b"POST /v1/models?a HTTP/1.1\r\n"
        b"host: x\r\nconnection: keep-alive\r\ncontent-length: 2\r\n\r\n"
    )


def test_a_last_answer_is_an_error_of_the_api_and_ends_the_connection() -> None:
    head, _, body = last_answer(RequestTimeout("Too slow.")).partition(b"\r\n\r\n")
    status, *lines = head.split(b"\r\n")
    told = dict(line.split(b": ", 1) for line in lines)
    assert status.startswith(b"HTTP/1.1 408 ")
    assert told[b"connection"] == b"close"
    assert int(told[b"content-length"]) == len(body)
    assert told[b"x-request-id"].startswith(b"req_")
    assert orjson.loads(body)["error"]["message"] == "Too slow."
