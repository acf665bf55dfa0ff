"""The ledger's tests run against Valkey and, where `redis-server` is on PATH, against Redis too."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import served

FOUND = {name: shutil.which(f"{name}-server") for name in ("redis", "valkey")}


@pytest.fixture(scope="session", params=["valkey", *(["redis"] if FOUND["redis"] else [])])
def server_path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A PATH with one of the two servers; Valkey's may be the one that a package carries."""
    directory = tmp_path_factory.mktemp("server")
    server = FOUND[request.param]  # found before PATH is anybody's
    if server is not None:
        (directory / Path(server).name).symlink_to(server)
    return str(directory)  # the tests start no other program by its name


@pytest.fixture(scope="session")
def store_url(server_path: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """One store of each kind."""
    store = served(tmp_path_factory.mktemp("store"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", server_path)
        url = next(store)
    yield url
    next(store, None)


@pytest.fixture(autouse=True)
def _one_server(server_path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a test that starts a store of its own find the same server."""
    monkeypatch.setenv("PATH", server_path)
