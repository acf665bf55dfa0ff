"""Real processes that a test starts, kills and waits for: replicas, a store, a gateway."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml
from redis import Redis
from redis.exceptions import RedisError

from backends.store import find_server

ROOT = Path(__file__).parents[2]
START_WITHIN_S = 60.0
END_WITHIN_S = 20.0


@dataclass
class Process:
    """One process and its output."""

    popen: "subprocess.Popen[bytes]"
    log: Path

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.popen.pid

    def kill(self) -> None:
        """End it as the kernel would: without a word."""
        self.popen.kill()
        self.popen.wait(END_WITHIN_S)

    def end(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and wait for the end; give the exit status."""
        self.popen.send_signal(number)
        return self.popen.wait(END_WITHIN_S)


def poll(condition: Callable[[], object], process: Process, within_s: float) -> None:
    """Wait until a condition holds, while the process lives."""
    deadline = time.monotonic() + within_s
    while not condition():
        if process.popen.poll() is not None or time.monotonic() > deadline:
            raise AssertionError(process.log.read_text(errors="replace")[-3000:])
        time.sleep(0.02)


@contextmanager
def process(log: Path, *argv: str) -> Iterator[Process]:
    """Run a command; what is left of it at the end is killed."""
    environ = {k: v for k, v in os.environ.items() if not k.startswith("SLUICE_")}
    environ.pop("REDIS_URL", None)
    environ.pop("REDIS_URL_FILE", None)
    with log.open("ab") as output:
        popen = subprocess.Popen(argv, stdout=output, stderr=output, env=environ, cwd=ROOT)
    try:
        yield Process(popen, log)
    finally:
        if popen.poll() is None:
            popen.kill()
        popen.wait(END_WITHIN_S)


@dataclass(frozen=True)
class ReplicaProcess:
    """A process with one simulated replica."""

    process: Process
    url: str


@contextmanager
def simulated_replica(directory: Path, name: str, *words: str) -> Iterator[ReplicaProcess]:
    """Run one simulated llama2-70b."""
    ready = directory / f"{name}.json"
    argv = [sys.executable, "-m", "backends.simulated", "--model", "llama2-70b"]
    argv += ["--hardware", "mi355x", "--replicas", "1", "--port", "0", "--ready-file", str(ready)]
    with process(directory / f"{name}.log", *argv, *words) as found:
        poll(ready.exists, found, START_WITHIN_S)
        yield ReplicaProcess(found, json.loads(ready.read_text())["urls"][0])


class StoreProcess:
    """A store that a test may kill and start again at the same address."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._stack = contextlib.ExitStack()
        self.url = f"unix://{directory}/s?db=0"
        self.process = self.start()

    def start(self) -> Process:
        """Start it on what it has written to its file."""
        argv = [str(find_server()), "--port", "0", "--unixsocket", f"{self._directory}/s"]
        argv += ["--dir", str(self._directory), "--appendonly", "yes", "--save", ""]
        self.process = self._stack.enter_context(process(self._directory / "store.log", *argv))
        poll(self._answers, self.process, START_WITHIN_S)
        return self.process

    def close(self) -> None:
        """End it."""
        self._stack.close()

    def _answers(self) -> bool:
        with Redis.from_url(self.url) as client:
            try:
                return bool(client.ping())
            except RedisError:
                return False


@contextmanager
def gateway_process(
    directory: Path, store_url: str, urls: list[str], *, max_running: int = 0, **settings: object
) -> Iterator[tuple[Process, str]]:
    """Run one gateway without keys; give it and its base URL."""
    config = directory / "sluice.yaml"
    replicas = [{"url": url, "max_running": max_running} for url in urls]
    config.write_text(
        yaml.safe_dump(
            {
                "no_auth": True,
                "models": {"llama2-70b": {"replicas": replicas}},
                "telemetry": {"log_level": "warning"},
                **settings,
            }
        )
    )
    argv = [sys.executable, "-m", "gateway.cli", "gateway", "--port", "0", "--admin-port", "0"]
    argv += ["--redis-url", store_url, "--config", str(config), "--data-dir", str(directory)]
    log = directory / "gateway.log"
    with process(log, *argv) as found:
        poll(lambda: "sluice gateway: " in log.read_text(), found, START_WITHIN_S)
        yield found, log.read_text().split("sluice gateway: ")[1].split(",")[0]
