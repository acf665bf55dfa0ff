"""What every test may ask for: a real store, and ports that nobody uses."""

import asyncio
import queue
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import structlog
from _pytest.nodeid import NodeId
from redis import Redis as BlockingRedis
from redis.asyncio import Redis

from backends.store import connect, open_store


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep the tests of one `xdist_group` in one process.

    pytest-xdist 3.8 writes the group to `Item._nodeid`, which pytest 9.2 no longer reads.
    """
    if not config.getoption("loadgroup", False):
        return
    for item in items:
        for mark in item.iter_markers("xdist_group"):
            suffix = f"@{mark.args[0]}"
            if not item.nodeid.endswith(suffix):
                item._id = NodeId.parse(item.nodeid + suffix)
            break


@pytest.fixture(autouse=True)
def logs_as_they_were() -> Iterator[None]:
    """Undo what a gateway in this process has set up: its stream is gone when a test ends."""
    yield
    structlog.reset_defaults()


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def store_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """One real store per test process (Valkey's or Redis's server, started by our own
    supervisor)."""
    yield from served(tmp_path_factory.mktemp("store"))


@pytest.fixture
def redis_url(store_url: str) -> str:
    """An empty database of the real store; never its database 0, which `store_url` names."""
    url = store_url.replace("db=0", "db=1")
    with BlockingRedis.from_url(url) as client:
        client.flushdb()
    return url


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    """A client of an empty database."""
    client = connect(redis_url)
    yield client
    await client.aclose()


@pytest.fixture
def free_port() -> int:
    """A loopback port that nobody listens on (now)."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def served(data_dir: Path) -> Iterator[str]:
    """Keep a store open in a loop of its own, since the tests' loops come and go."""
    loop = asyncio.new_event_loop()
    done = asyncio.Event()
    opened: queue.SimpleQueue[str | BaseException] = queue.SimpleQueue()

    async def keep() -> None:
        async with open_store(None, data_dir) as store:
            opened.put(store.url)
            await done.wait()

    def run() -> None:
        try:
            loop.run_until_complete(keep())
        except BaseException as error:
            opened.put(error)
        finally:
            loop.close()

    thread = threading.Thread(target=run, name="store of the tests")
    thread.start()
    found = opened.get()
    if isinstance(found, BaseException):
        raise found
    yield found
    loop.call_soon_threadsafe(done.set)
    thread.join()
