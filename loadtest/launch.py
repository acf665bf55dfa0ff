"""How is a run started in processes of its own, watched and stopped?"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from loadtest.options import RunOptions

LOG = "locust.log"


@dataclass(frozen=True, slots=True)
class Generators:
    """How many processes generate load, and where the master listens for those elsewhere.

    `local`: processes on this machine (1: a single one without a master). `remote`: workers on
    other machines that will join. `bind`: host:port of the master for them.
    """

    local: int = 1
    remote: int = 0
    bind: str = "127.0.0.1:0"

    @property
    def count(self) -> int:
        """Give the number of shares."""
        return self.remote if self.remote else self.local


class Running:
    """A started run; `stop` asks it to end and hand over what it has."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    @property
    def over(self) -> bool:
        """Tell whether the processes have ended."""
        return self._process.poll() is not None

    def stop(self) -> None:
        """Ask the run to end; safe to repeat."""
        if not self.over:
            self._process.send_signal(signal.SIGTERM)

    def wait(self, timeout_s: float) -> bool:
        """Wait for the end; tell whether it came."""
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return False
        return True

    def kill(self) -> None:
        """End all processes of the run at once."""
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except ProcessLookupError:
            return
        self._process.wait()


def start(options: RunOptions, base_url: str, out: Path, generators: Generators) -> Running:
    """Start Locust with our locustfile, its output in the run's directory."""
    locustfile = Path(__file__).with_name("locustfile.py")
    command = [sys.executable, "-m", "locust", "-f", str(locustfile), "--headless"]
    command += ["--only-summary", "--host", base_url, "--skip-log-setup"]
    command += ["--users", str(generators.count), "--spawn-rate", str(generators.count)]
    command += _distribution(generators)
    command += [*options.arguments(), "--out", str(out)]
    environment = os.environ | {"SLUICE_API_KEY": options.api_key}
    # Locust is found through this package's own place, also where it is not installed.
    here = str(Path(__file__).parents[1])
    paths = [here, *filter(None, [environment.get("PYTHONPATH")])]
    environment["PYTHONPATH"] = os.pathsep.join(paths)
    with (out / LOG).open("wb") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,  # an interrupt of the terminal is ours to hand on
        )
    return Running(process)


def _distribution(generators: Generators) -> list[str]:
    host, _, port = generators.bind.rpartition(":")
    if generators.remote:
        arguments = ["--master", "--expect-workers", str(generators.remote)]
        return [*arguments, "--master-bind-host", host, "--master-bind-port", port]
    if generators.local == 1:
        return []
    free = str(_free_port())
    arguments = ["--processes", str(generators.local), "--master-bind-host", "127.0.0.1"]
    return [*arguments, "--master-bind-port", free, "--master-port", free]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
