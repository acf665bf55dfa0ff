"""One socket to the store: replies reach who asked, whatever happens to the socket or to them."""

import asyncio

import pytest
from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError, RedisError, ResponseError, TimeoutError

from backends.store import connect, hand_over
from gateway.line import Line


async def test_replies_come_to_those_who_asked(redis: Redis) -> None:
    line = Line(redis, answer_s=5.0)
    found = await asyncio.gather(*(line.ask("ECHO", str(n)) for n in range(200)))
    assert found == [str(n).encode() for n in range(200)]
    line.close()


async def test_one_who_leaves_takes_nobody_elses_reply(redis: Redis) -> None:
    line = Line(redis, answer_s=5.0)
    await line.ask("PING")
    leaving = asyncio.create_task(line.ask("ECHO", "left"))
    staying = asyncio.create_task(line.ask("ECHO", "stayed"))
    await asyncio.sleep(0)
    leaving.cancel()
    assert await staying == b"stayed"
    line.close()


async def test_a_command_whose_connection_broke_is_sent_once_more(redis: Redis) -> None:
    line = Line(redis, answer_s=5.0)
    await redis.client_kill_filter(_id=str(await line.ask("CLIENT", "ID")))
    assert await line.ask("ECHO", "again") == b"again"
    line.close()


async def test_a_store_that_is_silent_fails_the_command_and_the_next_one_is_answered(
    redis: Redis,
) -> None:
    line = Line(redis, answer_s=0.2)
    with pytest.raises(TimeoutError):
        await line.ask("BLPOP", "nothing-comes", 0)
    assert await line.ask("ECHO", "here") == b"here"
    line.close()


async def test_the_end_of_an_old_socket_told_late_is_nothing_to_its_successor(
    redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    protocols: list[asyncio.Protocol] = []

    def noted(connection: AbstractConnection, protocol: asyncio.Protocol) -> asyncio.StreamWriter:
        protocols.append(protocol)
        return hand_over(connection, protocol)

    monkeypatch.setattr("gateway.line.hand_over", noted)
    line = Line(redis, answer_s=5.0)
    await line.ask("PING")
    line.close()
    await line.ask("PING")
    waiting = asyncio.create_task(line.ask("BLPOP", "late", 0))
    await asyncio.sleep(0)
    protocols[0].data_received(b"+an old reply\r\n")
    protocols[0].connection_lost(None)
    await redis.rpush("late", "in time")
    assert await waiting == [b"late", b"in time"]
    assert len(protocols) == 2  # the command was not sent once more
    line.close()


async def test_an_error_is_the_askers_alone(redis: Redis) -> None:
    line = Line(redis, answer_s=5.0)
    with pytest.raises(ResponseError):
        await line.ask("HGET", "too-few-words")
    assert await line.ask("PING") in {b"PONG", "PONG"}
    line.close()


async def test_a_store_that_is_not_there_is_told(free_port: int) -> None:
    line = Line(Redis.from_url(f"redis://127.0.0.1:{free_port}"), answer_s=2.0)
    with pytest.raises(ConnectionError):
        await line.ask("PING")


async def test_a_store_that_takes_connections_and_says_nothing_is_given_up(free_port: int) -> None:
    closed = asyncio.Event()

    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()  # until the other side closes
        writer.close()
        closed.set()

    client = connect(f"redis://127.0.0.1:{free_port}")
    async with await asyncio.start_server(say_nothing, "127.0.0.1", free_port):
        with pytest.raises((OSError, RedisError)):
            await Line(client, answer_s=0.2).ask("PING")
        await asyncio.wait_for(closed.wait(), 10)
    await client.aclose()
