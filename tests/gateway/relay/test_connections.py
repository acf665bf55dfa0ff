"""Callers and engines close, reset, reuse and overlap connections as they like."""

import asyncio
import socket
import struct

import aiohttp
import orjson
import pytest

from tests.engines import STREAM_HEAD, Seen, as_chunk, document, scripted_engine
from tests.gateway.relay.test_relay import CHAT, DONE, direct, frame, request_bytes, sent, whole
from tests.gateways import MODEL, running_gateway, until

__all__ = ["direct"]

ANSWER = {
    "choices": [
        {"index": 0, "message": {"content": "ok", "refusal": None}, "finish_reason": "stop"}
    ]
}
STREAM = orjson.dumps({**CHAT, "stream": True})
UNARY = orjson.dumps(CHAT)


async def answers(seen: Seen, writer: asyncio.StreamWriter) -> None:
    """Answer what is asked for, with the caller's number in it."""
    number = str(seen.document.get("seed", 0))
    if seen.document.get("stream"):
        return await sent(writer, [whole(number)])
    writer.write(document({**ANSWER, "id": number}))
    return None


def numbered(number: int, *, stream: bool) -> bytes:
    """A request that is told from others."""
    return request_bytes(orjson.dumps({**CHAT, "seed": number, "stream": stream}))


async def read_answer(reader: asyncio.StreamReader) -> bytes:
    """Read one answer's body, chunked or with a length."""
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    assert head.startswith(b"http/1.1 200"), head
    if b"content-length: " in head:
        return await reader.readexactly(int(head.split(b"content-length: ")[1].split(b"\r\n")[0]))
    body = b""
    while size := int(await reader.readline(), 16):
        body += (await reader.readexactly(size + 2))[:-2]
    assert await reader.readline() == b"\r\n"
    return body


async def test_calls_share_one_connection_on_both_sides(redis_url: str, direct: bool) -> None:
    async with (
        scripted_engine(answers) as engine,
        running_gateway(redis_url, {MODEL: [engine.url]}, direct=direct) as gateway,
    ):
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        for number in range(10):
            writer.write(numbered(number, stream=number % 2 == 1))
            assert f'"{number}"'.encode() in await read_answer(reader)
        pool = gateway.services.upstreams
        assert pool.open_count == 1
        writer.close()


async def test_pipelined_calls_are_answered_in_their_order(redis_url: str, direct: bool) -> None:
    async with (
        scripted_engine(answers) as engine,
        running_gateway(redis_url, {MODEL: [engine.url]}, direct=direct) as gateway,
    ):
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        writer.write(b"".join(numbered(n, stream=n % 3 == 0) for n in range(9)))
        for number in range(9):
            assert f'"{number}"'.encode() in await read_answer(reader)
        writer.close()
        await until(lambda: not any(gateway.leftovers().values()))


async def test_a_caller_who_resets_the_connection_ends_the_engines_work(
    redis_url: str, direct: bool
) -> None:
    async def begins(_: Seen, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM_HEAD + as_chunk(frame("a")))
        await writer.drain()
        await asyncio.Event().wait()

    async with (
        scripted_engine(begins) as engine,
        running_gateway(redis_url, {MODEL: [engine.url]}, direct=direct) as gateway,
    ):
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        writer.write(request_bytes(STREAM))
        await reader.readuntil(b"\n\n\r\n")
        own: socket.socket = writer.get_extra_info("socket")
        own.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()
        await until(engine.calls[0].peer_left.is_set)
        await until(lambda: not any(gateway.leftovers().values()))


async def test_a_caller_who_closes_his_half_has_left(redis_url: str, direct: bool) -> None:
    async def begins(_: Seen, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM_HEAD + as_chunk(frame("a")))
        await writer.drain()
        await asyncio.Event().wait()

    async with (
        scripted_engine(begins) as engine,
        running_gateway(redis_url, {MODEL: [engine.url]}, direct=direct) as gateway,
    ):
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        writer.write(request_bytes(STREAM))
        await reader.readuntil(b"\n\n\r\n")
        writer.write_eof()
        await until(engine.calls[0].peer_left.is_set)
        await until(lambda: not any(gateway.leftovers().values()))
        writer.close()


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "unary"])
async def test_an_engine_that_closes_its_half_before_the_head_costs_another_attempt(
    redis_url: str, direct: bool, stream: bool
) -> None:
    async def closes(_: Seen, writer: asyncio.StreamWriter) -> None:
        writer.write_eof()

    async with (
        scripted_engine(closes) as bad,
        scripted_engine(answers) as good,
        running_gateway(redis_url, {MODEL: [bad.url, good.url]}, direct=direct) as gateway,
        aiohttp.ClientSession() as client,
    ):
        for _ in range(3):
            url = f"{gateway.url}/v1/chat/completions"
            async with client.post(url, json={**CHAT, "stream": stream}) as reply:
                assert reply.status == 200
                assert b"choices" in await reply.read()


async def test_an_engine_that_resets_in_a_chunk_is_told_in_the_stream(
    redis_url: str, direct: bool
) -> None:
    async def resets(_: Seen, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM_HEAD + as_chunk(frame("a")) + as_chunk(frame("b"))[:-9])
        await writer.drain()
        own: socket.socket = writer.get_extra_info("socket")
        own.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()

    async with (
        scripted_engine(resets) as engine,
        running_gateway(redis_url, {MODEL: [engine.url]}, direct=direct) as gateway,
        aiohttp.ClientSession() as client,
        client.post(f"{gateway.url}/v1/chat/completions", json={**CHAT, "stream": True}) as reply,
    ):
        told = await reply.read()
        # Either the head has gone out, and then the stream says it, or nothing has.
        if reply.status == 200:
            assert b"stream_broken" in told
            assert told.endswith(DONE)
        assert frame("b") not in told


async def test_an_unlimited_body_ends_with_the_connection(redis_url: str, direct: bool) -> None:
    body = orjson.dumps(ANSWER)

    async def closes_after(_: Seen, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n" + body)
        await writer.drain()
        writer.write_eof()

    async with (
        scripted_engine(closes_after) as engine,
        running_gateway(redis_url, {MODEL: [engine.url]}, direct=direct) as gateway,
        aiohttp.ClientSession() as client,
        client.post(f"{gateway.url}/v1/chat/completions", json=CHAT) as reply,
    ):
        assert reply.status == 200
        assert await reply.json() == ANSWER


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", id="empty document"),
        pytest.param(STREAM_HEAD + as_chunk(b""), id="empty stream"),
        pytest.param(STREAM_HEAD + as_chunk(b"\n\n") + as_chunk(b""), id="blank lines only"),
        pytest.param(STREAM_HEAD + as_chunk(DONE) + as_chunk(b""), id="only the end"),
    ],
)
async def test_an_answer_of_nothing_is_a_definite_answer(
    redis_url: str, direct: bool, answer: bytes
) -> None:
    async def says(_: Seen, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)

    async with (
        scripted_engine(says) as engine,
        running_gateway(redis_url, {MODEL: [engine.url]}, direct=direct) as gateway,
        aiohttp.ClientSession() as client,
        client.post(f"{gateway.url}/v1/chat/completions", json={**CHAT, "stream": True}) as reply,
    ):
        told = await reply.read()
        assert reply.status in (200, 502, 503)
        assert told == DONE or b'"error"' in told
        await until(lambda: not any(gateway.leftovers().values()))


async def test_empty_pieces_within_a_stream_change_nothing(redis_url: str, direct: bool) -> None:
    data = whole("", "a", "")

    async def dribbles(_: Seen, writer: asyncio.StreamWriter) -> None:
        await sent(writer, [data[i : i + 1] for i in range(len(data))])

    async with (
        scripted_engine(dribbles) as engine,
        running_gateway(redis_url, {MODEL: [engine.url]}, direct=direct) as gateway,
        aiohttp.ClientSession() as client,
    ):
        body = {**CHAT, "stream": True, "stream_options": {"include_usage": True}}
        async with client.post(f"{gateway.url}/v1/chat/completions", json=body) as reply:
            told = await reply.read()
    texts = [orjson.loads(f[6:]) for f in told.split(b"\n\n")[:-2]]
    assert [c["delta"]["content"] for f in texts for c in f["choices"]] == ["", "a", "", ""]
    assert texts[-1]["usage"]["completion_tokens"] == 2


async def test_what_an_engine_says_unasked_spoils_its_connection_and_no_call(
    redis_url: str, direct: bool
) -> None:
    async def adds(seen: Seen, writer: asyncio.StreamWriter) -> None:
        await answers(seen, writer)
        writer.write(document({"id": "nobody asked for this"}))

    async with (
        scripted_engine(adds) as engine,
        running_gateway(redis_url, {MODEL: [engine.url]}, direct=direct) as gateway,
        aiohttp.ClientSession() as client,
    ):
        for number in range(5):
            body = {**CHAT, "seed": number}
            async with client.post(f"{gateway.url}/v1/chat/completions", json=body) as reply:
                assert (await reply.json())["id"] == str(number)


async def test_callers_who_send_nothing_cost_nothing(redis_url: str, direct: bool) -> None:
    async with (
        scripted_engine(answers) as engine,
        running_gateway(redis_url, {MODEL: [engine.url]}, direct=direct) as gateway,
    ):
        for _ in range(20):
            _, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
            writer.close()
        await until(lambda: not gateway.server.server_state.connections)
        assert not engine.calls


async def test_a_class_may_have_chunks_gathered_but_not_the_first_nor_the_last(
    redis_url: str, direct: bool
) -> None:
    pieces = [frame(str(n)) for n in range(20)]
    last = whole().replace(frame("", finish_reason="stop"), b"")
    go_on = asyncio.Event()

    async def streams(_: Seen, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM_HEAD + as_chunk(pieces[0]))
        await writer.drain()
        await go_on.wait()
        for piece in pieces[1:]:
            writer.write(as_chunk(piece))
            await writer.drain()
            await asyncio.sleep(0)
        writer.write(as_chunk(frame("", finish_reason="stop") + last) + as_chunk(b""))

    classes = {"server": {"coalesce_ms": 1000}}
    async with (
        scripted_engine(streams) as engine,
        running_gateway(
            redis_url, {MODEL: [engine.url]}, direct=direct, classes=classes
        ) as gateway,
    ):
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        writer.write(request_bytes(STREAM))
        first = await reader.readuntil(b"\n\n\r\n")
        assert first.endswith(as_chunk(pieces[0]))
        go_on.set()
        chunks = []
        while size := int(await reader.readline(), 16):
            chunks.append((await reader.readexactly(size + 2))[:-2])
        assert b"".join(chunks).startswith(b"".join(pieces[1:]))
        assert b"".join(chunks).endswith(DONE)
        assert len(chunks) < len(pieces)
        writer.close()
