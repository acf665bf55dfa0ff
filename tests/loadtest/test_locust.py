"""Does Locust work as its users expect: web page, master and workers elsewhere?"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from loadtest.records import Log
from loadtest.store import read_status

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.system


@contextmanager
def locust(log: Path, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "locust", "-f", "loadtest/locustfile.py", *arguments]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with (
        log.open("wb") as file,
        subprocess.Popen(
            command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT, env=environment
        ) as process,
    ):
        try:
            yield process
        finally:
            process.terminate()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=5) as answer:
        return str(answer.read().decode())


def wait_for(what: Callable[[], Any], timeout_s: float = 60) -> Any:
    """Poll until something is true, and give it."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            found = what()
        except (urllib.error.URLError, ConnectionError):
            found = None
        if found:
            return found
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_the_page_shows_token_latencies_and_workers_elsewhere_share_the_schedule(
    fast: str, scenario: Callable[..., Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    page, bus = free_port(), free_port()
    run = ["--host", fast, "--scenario", str(scenario(duration_s=4)), "--model", "own"]
    run += ["--target-qps", "30", "--out", str(out)]
    master = ["--master", "--master-bind-host", "127.0.0.1", "--master-bind-port", str(bus)]
    master += ["--web-host", "127.0.0.1", "--web-port", str(page)]
    worker = ["--worker", "--master-host", "127.0.0.1", "--master-port", str(bus)]
    here = f"http://127.0.0.1:{page}"
    with ExitStack() as stack:
        stack.enter_context(locust(tmp_path / "master.log", *master, *run))
        for number in range(2):
            stack.enter_context(locust(tmp_path / f"worker-{number}.log", *worker))
        wait_for(lambda: json.loads(get(f"{here}/stats/requests")).get("worker_count") == 2)
        assert "/token-latencies/live.js" in get(here)
        assert "TTFT" in get(f"{here}/token-latencies/live.js")
        # One user is enough for any rate: the schedule is the load.
        start = urllib.request.Request(f"{here}/swarm", data=b"user_count=1&spawn_rate=1")
        urllib.request.urlopen(start, timeout=5).close()
        wait_for(lambda: json.loads(get(f"{here}/token-latencies/data"))["points"])
        told = json.loads(get(f"{here}/token-latencies/data"))
        assert (told["title"], told["limits"]["ttft"]) == ("own own", 2000)
        assert told["points"][0]["ttft_p50"] > 0
        wait_for(lambda: read_status(out).get("state") == "finished")
        rows = json.loads(get(f"{here}/stats/requests"))["stats"]
    log = Log.read(out / "records.bin")
    shares = [one["queries"] for one in read_status(out)["costs"]]
    assert sum(shares) == len(log)
    assert max(shares) - min(shares) <= 1
    counts = {row["name"]: row["num_requests"] for row in rows}
    assert {"own own", "TTFT", "TPOT", "Aggregated"} <= set(counts)
    assert counts["Aggregated"] == counts["own own"], "TTFT and TPOT are no requests of their own"


def test_a_lost_worker_ends_the_run_as_failed(
    fast: str, scenario: Callable[..., Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    bus = str(free_port())
    run = ["--host", fast, "--scenario", str(scenario(duration_s=600)), "--model", "own"]
    run += ["--target-qps", "30", "--out", str(out), "--headless", "--expect-workers", "2"]
    run += ["--users", "2", "--spawn-rate", "2"]
    master = ["--master", "--master-bind-host", "127.0.0.1", "--master-bind-port", bus, *run]
    worker = ["--worker", "--master-host", "127.0.0.1", "--master-port", bus]
    with ExitStack() as stack:
        leader = stack.enter_context(locust(tmp_path / "master.log", *master))
        stack.enter_context(locust(tmp_path / "worker-0.log", *worker))
        lost = stack.enter_context(locust(tmp_path / "worker-1.log", *worker))
        wait_for(lambda: len(Log.read(out / "records.bin")))
        lost.kill()
        leader.wait(60)
    status = read_status(out)
    assert status["state"] == "failed"
    assert "lost worker" in status["why"]
    assert len(Log.read(out / "records.bin"))


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--host", "http://127.0.0.1:1/v1", "--scenario", "night"], "no scenario 'night'"),
        ([], "--host names the endpoint"),
    ],
)
def test_options_that_make_no_run_end_it_with_a_reason(
    arguments: list[str], told: str, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with locust(tmp_path / "log", "--headless", "--out", str(out), *arguments) as process:
        assert process.wait(60) == 1
    assert told in read_status(out)["why"]
