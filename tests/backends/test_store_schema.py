"""Which stores does a process start on, and who raises a store's number?"""

from pathlib import Path

import pytest
from redis import Redis as BlockingRedis
from redis.asyncio import Redis

from backends.store import connect
from backends.store_schema import (
    KEY,
    OLDEST,
    STEPS,
    VERSION,
    WrongSchema,
    check_schema,
    migrate,
)
from gateway.cli.main import main


async def test_an_empty_store_gets_our_number(redis: Redis) -> None:
    assert await check_schema(redis) == VERSION
    assert await check_schema(redis) == VERSION
    assert await redis.get(KEY) == str(VERSION).encode()


async def test_a_newer_store_is_refused_in_words_that_help(redis: Redis) -> None:
    await redis.set(KEY, VERSION + 1)
    newer = f"schema {VERSION + 1}, which is newer .* start the version that wrote it"
    with pytest.raises(WrongSchema, match=newer):
        await check_schema(redis)
    with pytest.raises(WrongSchema, match=newer):
        await migrate(redis)
    assert await redis.get(KEY) == str(VERSION + 1).encode()


@pytest.mark.parametrize("found", [b"", b"-1", b"1.5", b"two"])
async def test_a_number_that_is_none_is_refused(redis: Redis, found: bytes) -> None:
    await redis.set(KEY, found)
    with pytest.raises(WrongSchema, match="not ours"):
        await check_schema(redis)


async def test_one_that_is_too_old_is_refused(redis: Redis) -> None:
    await redis.set(KEY, OLDEST - 1)
    with pytest.raises(WrongSchema, match="older than this version reads"):
        await check_schema(redis)


async def test_an_older_store_is_served_as_it_is_until_somebody_raises_it(redis: Redis) -> None:
    await redis.set(KEY, OLDEST)
    assert await check_schema(redis) == OLDEST
    assert await redis.get(KEY) == str(OLDEST).encode()
    assert len(await migrate(redis)) == VERSION - OLDEST
    assert await check_schema(redis) == VERSION
    assert await migrate(redis) == []


def test_there_is_a_step_for_every_number() -> None:
    assert sorted(STEPS) == list(range(OLDEST, VERSION))


async def test_a_store_that_is_away_is_no_reason_not_to_start() -> None:
    away = connect("redis://127.0.0.1:1/0")
    try:
        assert await check_schema(away) is None
    finally:
        await away.aclose()


def test_the_command_shows_and_raises(redis_url: str, capfd: pytest.CaptureFixture[str]) -> None:
    def told(action: str) -> str:
        assert main(["store", action, "--redis-url", redis_url]) == 0
        return capfd.readouterr().err

    assert f"has schema {VERSION}" in told("show")
    assert "already" in told("migrate")


@pytest.mark.parametrize("command", ["gateway", "worker"])
def test_nothing_starts_on_a_newer_store(
    command: str,
    redis_url: str,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    with BlockingRedis.from_url(redis_url) as store:
        store.set(KEY, VERSION + 1)
    words = [command, "--redis-url", redis_url, "--data-dir", str(tmp_path), "--port", "0"]
    assert main(words + (["--admin-port", "0"] if command == "gateway" else [])) == 1
    assert "newer than this version knows" in capfd.readouterr().err
