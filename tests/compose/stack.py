"""The services of compose.yaml under a project name of their own, on a real engine."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Project:
    """One project; every command is bounded in time and fails loudly."""

    name: str
    files: Sequence[str] = ("compose.yaml",)
    env: Mapping[str, str] = field(default_factory=dict)

    def run(self, *arguments: str, within_s: float = 180.0, check: bool = True) -> str:
        """Run `docker compose ...`; give what it prints."""
        files = [word for each in self.files for word in ("--file", str(ROOT / each))]
        return docker(
            "compose", "--project-name", self.name, *files,
            *arguments, env=self.env, within_s=within_s, check=check,
        )  # fmt: skip

    def up(self, *arguments: str, within_s: float = 180.0) -> None:
        """Start what is not there, and wait until all of it is healthy."""
        wait = str(int(within_s) - 10)
        self.run("up", "-d", "--wait", "--wait-timeout", wait, *arguments, within_s=within_s)

    def containers(self, service: str) -> list[dict[str, Any]]:
        """Describe the running containers of a service, in the order of their numbers."""
        ids = self.run("ps", "--quiet", service).split()
        found: list[dict[str, Any]] = json.loads(docker("inspect", *ids)) if ids else []
        return sorted(found, key=lambda each: str(each["Name"]))

    def url(self, index: int = 1) -> str:
        """Give the API's base URL of one gateway; published ports move, so ask each time."""
        return f"http://{self.run('port', '--index', str(index), 'gateway', '8000').strip()}/v1"

    def api_key(self) -> str:
        """Give the key that the setup has made."""
        return self.run("exec", "-T", "gateway", "cat", "/var/lib/sluice/api-key").strip()

    def kill(self, service: str, index: int = 0) -> None:
        """Kill a container's first process from the host, as the kernel would, and see it return.

        `docker kill` would not do: the engine takes it for a wish and does not restart.
        """
        before = self.containers(service)[index]
        os.kill(int(before["State"]["Pid"]), signal.SIGKILL)

        def is_back() -> bool:
            now = json.loads(docker("inspect", before["Id"]))[0]["State"]
            is_new = now["Running"] and now["Pid"] not in {0, before["State"]["Pid"]}
            return is_new and now.get("Health", {}).get("Status", "healthy") == "healthy"

        until(is_back, f"{service} did not come back")

    def left(self) -> list[str]:
        """Name what the project has left on the engine."""
        label = f"label=com.docker.compose.project={self.name}"
        found = docker("ps", "-aq", "--filter", label).split()
        for kind in ("volume", "network"):
            found += docker(kind, "ls", "-q", "--filter", label).split()
        return found


def docker(
    *arguments: str,
    env: Mapping[str, str] | None = None,
    within_s: float = 60.0,
    check: bool = True,
) -> str:
    """Run docker; give what it prints."""
    done = subprocess.run(
        ["docker", *arguments],
        env={**os.environ, **(env or {})},
        capture_output=True,
        text=True,
        timeout=within_s,
        check=False,
    )
    assert not check or done.returncode == 0, f"docker {arguments}:\n{done.stderr[-4000:]}"
    return done.stdout


def until(condition: Callable[[], object], otherwise: str, within_s: float = 60.0) -> None:
    """Wait until something holds."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, otherwise
        time.sleep(0.1)
