"""`sluice up --engine simulated`: it serves, and nothing of it is left however it ends."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

pytestmark = [pytest.mark.system, pytest.mark.timeout(180)]

ROOT = Path(__file__).parents[2]
START_WITHIN_S = 90.0
END_WITHIN_S = 40.0


def environ() -> dict[str, str]:
    """Give this process's environment without settings of ours."""
    left = {k: v for k, v in os.environ.items() if not k.startswith("SLUICE_")}
    left.pop("REDIS_URL", None)
    left.pop("REDIS_URL_FILE", None)
    return left


class Running:
    """One command that serves."""

    def __init__(self, log: Path, *words: str) -> None:
        self.log = log
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "gateway.cli", *words],
                stdout=output,
                stderr=output,
                env=environ(),
                cwd=ROOT,
            )

    def family(self) -> list[psutil.Process]:
        """Find it and all that it has started."""
        top = psutil.Process(self.process.pid)
        return [top, *top.children(recursive=True)]

    def end(self, number: int) -> int:
        """Send a signal and wait for the end; give the exit status."""
        self.process.send_signal(number)
        return self.process.wait(END_WITHIN_S)


class Up(Running):
    """One `sluice up` in a directory of its own."""

    def __init__(self, directory: Path, *words: str) -> None:
        self.data = directory / "data"
        self.ready_file = directory / "ready.json"
        places = ("--data-dir", str(self.data), "--ready-file", str(self.ready_file))
        super().__init__(directory / "up.log", "up", "--port", "0", *places, *words)

    def ready(self, within_s: float = START_WITHIN_S) -> dict[str, Any]:
        """Wait for the ready file."""
        poll(lambda: self.ready_file.exists() or self.process.poll() is not None, within_s)
        assert self.ready_file.exists(), self.log.read_text()
        found: dict[str, Any] = json.loads(self.ready_file.read_text())
        return found


def poll(condition: Any, within_s: float) -> None:
    """Wait until a condition holds."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.02)


class Starter:
    """Starts as many as a test needs, each in the directory that it names."""

    def __init__(self, directory: Path) -> None:
        self.started: list[Running] = []
        self._directory = directory

    def __call__(self, *words: str, directory: str = "a") -> Up:
        where = self._directory / directory
        where.mkdir(exist_ok=True)
        up = Up(where, *words)
        self.started.append(up)
        return up

    def command(self, *words: str) -> Running:
        """Start another command that serves."""
        log = self._directory / f"{len(self.started)}.log"
        self.started.append(Running(log, *words))
        return self.started[-1]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Starter]:
    starter = Starter(tmp_path)
    yield starter
    for each in starter.started:
        stop(each)


@pytest.fixture
def up(start: Starter) -> Up:
    return start("--engine", "simulated", "--throughput-scale", "4")


def stop(found: Running) -> None:
    """End what a failed test has left."""
    if found.process.poll() is None:
        family = found.family()
        found.process.terminate()
        try:
            found.process.wait(END_WITHIN_S)
        except subprocess.TimeoutExpired:
            for each in family:
                each.kill()


def gone(family: list[psutil.Process]) -> bool:
    """Whether none of the processes runs."""
    return not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in family)


def ask(url: str, key: str, body: object | None = None) -> tuple[int, Any]:
    """Send one request; give status and JSON."""
    request = urllib.request.Request(
        url,
        data=None if body is None else json.dumps(body).encode(),
        headers={"authorization": f"Bearer {key}", "content-type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def sluice(*words: str) -> "subprocess.CompletedProcess[str]":
    """Run another command."""
    return subprocess.run(
        [sys.executable, "-m", "gateway.cli", *words],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=environ(),
        cwd=ROOT,
    )


def chat(ready: dict[str, Any], model: str, key: str | None = None) -> tuple[int, Any]:
    """Ask a model for a short answer."""
    body = {"model": model, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4}
    return ask(f"{ready['base_url']}/chat/completions", key or ready["api_key"], body)


def test_it_serves_is_administered_and_ends_with_ctrl_c(up: Up) -> None:
    ready = up.ready()
    assert ready["models"] == ["gpt-oss-120b", "llama2-70b"]
    assert ready["pid"] == up.process.pid
    for model in ready["models"]:
        status, answer = chat(ready, model)
        assert status == 200, answer
        assert answer["usage"]["completion_tokens"] == 4
    assert chat(ready, "llama2-70b", "sk-nobody")[0] == 401
    assert ask(f"{ready['admin_url']}/admin/replicas", ready["api_key"])[0] == 401
    assert up.ready_file.stat().st_mode & 0o077 == 0
    text = up.log.read_text()
    assert ready["api_key"] in text
    assert "curl -N" in text

    data = ("--data-dir", str(up.data))
    made = sluice("keys", "create", "--models", "llama2-70b", "--name", "only-llama", *data)
    assert made.returncode == 0, made.stderr
    own = made.stdout.strip()
    assert chat(ready, "llama2-70b", own)[0] == 200
    assert chat(ready, "gpt-oss-120b", own)[0] in {403, 404}
    assert "only-llama" in sluice("keys", "list", *data).stdout
    assert own not in sluice("keys", "list", "--json", *data).stdout

    shown = json.loads(sluice("replicas", "list", "--json", *data).stdout)
    language = [each for each in shown if each["model"] in ready["models"]]
    assert [each["health"]["state"] for each in language] == ["ready", "ready"]
    name = next(each["id"] for each in shown if each["model"] == "llama2-70b")
    assert sluice("replicas", "drain", name, *data).returncode == 0
    poll(lambda: "draining" in sluice("replicas", "list", *data).stdout, 30)
    assert sluice("replicas", "remove", "nobody", *data).returncode == 1

    family = up.family()
    assert len(family) >= 4  # itself, the replicas, the store, and their wardens
    assert up.end(signal.SIGINT) == 0
    assert gone(family)
    assert not (up.data / "running.json").exists()


def test_the_second_start_finds_its_keys_again(start: Starter) -> None:
    first = start("--engine", "none")
    before = first.ready()
    assert first.end(signal.SIGTERM) == 0
    second = start("--engine", "none")
    after = second.ready()
    assert after["pid"] == second.process.pid
    assert (after["api_key"], after["admin_key"]) == (before["api_key"], before["admin_key"])
    assert ask(f"{after['base_url']}/models", after["api_key"])[0] == 200


def test_nothing_is_left_after_kill_9(up: Up) -> None:
    up.ready()
    family = up.family()
    assert up.end(signal.SIGKILL) == -signal.SIGKILL
    poll(lambda: gone(family), END_WITHIN_S)


def test_a_replica_process_that_dies_is_started_again(up: Up) -> None:
    ready = up.ready()
    (replica,) = [
        p for p in up.family() if p.cmdline()[2:5] == ["gateway.cli", "replica", "simulated"]
    ]
    replica.kill()
    poll(lambda: "starting it again" in up.log.read_text(), 30)
    poll(lambda: chat(ready, "llama2-70b")[0] == 200, 60)
    assert up.end(signal.SIGTERM) == 0


def test_a_second_signal_does_not_wait(up: Up) -> None:
    up.ready()
    family = up.family()
    up.process.send_signal(signal.SIGINT)
    assert up.end(signal.SIGINT) in {0, 130}
    poll(lambda: gone(family), END_WITHIN_S)


def test_ctrl_c_ends_a_start_half_way(up: Up) -> None:
    poll(lambda: "starting" in up.log.read_text() or up.process.poll() is not None, 60)
    family = up.family()
    assert up.end(signal.SIGINT) == 0
    poll(lambda: gone(family), END_WITHIN_S)
    assert not up.ready_file.exists()


def test_replicas_that_others_run_are_adopted_by_url(
    tmp_path: Path, up: Up, start: Starter
) -> None:
    ready = up.ready()
    shown = ask(f"{ready['admin_url']}/admin/replicas", ready["admin_key"])[1]["data"]
    url = next(each["url"] for each in shown if each["model"] == "llama2-70b")
    config = tmp_path / "sluice.yaml"
    config.write_text(
        "models:\n  mine:\n    engine: simulated\n    served_name: llama2-70b\n"
        f"    replicas:\n      - {{url: '{url}'}}\n      - {{url: 'http://127.0.0.1:1'}}\n"
    )
    second = start("--engine", "none", "--config", str(config), directory="b")
    other = second.ready()
    assert other["models"] == ["mine"]
    assert chat(other, "mine")[0] == 200
    assert second.end(signal.SIGTERM) == 0


def test_another_gateway_and_another_replica_join_by_the_store(up: Up, start: Starter) -> None:
    ready = up.ready()
    shown = ask(f"{ready['admin_url']}/admin/replicas", ready["admin_key"])[1]["data"]
    url = next(each["url"] for each in shown if each["model"] == "llama2-70b")
    adopted = start.command(
        *("replica", "sglang", "--model", "mine", "--served-name", "llama2-70b", "--url", url),
        *("--data-dir", str(up.data), "--drain-s", "0"),
    )
    gateway = start.command(
        *("gateway", "--port", "0", "--admin-port", "0", "--redis-url", ready["redis_url"]),
    )
    poll(lambda: "sluice gateway: " in gateway.log.read_text(), START_WITHIN_S)
    base_url = gateway.log.read_text().split("sluice gateway: ")[1].split(",")[0]
    other = {**ready, "base_url": base_url}
    for where in (ready, other):
        poll(lambda where=where: chat(where, "mine")[0] == 200, 60)
    assert adopted.end(signal.SIGTERM) == 0
    poll(lambda: chat(other, "mine")[0] in {404, 503}, 60)
    assert gateway.end(signal.SIGTERM) == 0


@pytest.mark.parametrize(
    ("words", "text", "message"),
    [
        ((), "workers: x", "sluice.yaml:1: workers: found 'x'; allowed: a whole number"),
        (("--host", "0.0.0.0", "--no-auth"), "", "no_auth: found True; allowed only with a loop"),
        (("--replicas", "0"), "", "must be above 0"),
    ],
)
def test_what_is_wrong_is_told_with_status_2(
    tmp_path: Path, start: Starter, words: tuple[str, ...], text: str, message: str
) -> None:
    config = tmp_path / "sluice.yaml"
    config.write_text(text)
    up = start("--engine", "none", "--config", str(config), *words)
    assert up.process.wait(60) == 2
    assert message in up.log.read_text()


def test_a_port_that_is_taken_is_told(start: Starter) -> None:
    ready = start("--engine", "none").ready()
    port = ready["base_url"].rsplit(":", 1)[1].split("/")[0]
    second = start("--engine", "none", "--port", port, directory="b")
    assert second.process.wait(60) == 1
    assert "is in use; --port 0 picks free ones" in second.log.read_text()


FLEET = """
actuator: process
tick_s: 0.5
port: 0
pools:
  - {model: llama2-70b, cold_start_s: 2.0, policy: {least: 2, most: 3}}
"""


def test_an_autoscaler_runs_the_replicas_that_a_fleet_file_asks_for(
    tmp_path: Path, start: Starter
) -> None:
    fleet = tmp_path / "fleet.yaml"
    fleet.write_text(FLEET)
    up = start("--engine", "simulated", "--no-video", "--autoscale", str(fleet))
    ready = up.ready()
    shown = ask(f"{ready['admin_url']}/admin/replicas", ready["admin_key"])[1]["data"]
    assert [each["health"]["state"] for each in shown] == ["ready", "ready"]
    assert chat(ready, "llama2-70b")[0] == 200
    told = sluice("autoscaler", "explain", "--data-dir", str(up.data)).stdout
    assert "start 2 -> 2 units" in told
    assert "bound by  floor" in told
    family = up.family()
    assert up.end(signal.SIGTERM) == 0
    assert gone(family)


def test_a_second_signal_ends_scaled_replicas_at_once(start: Starter) -> None:
    up = start("--engine", "simulated", "--no-video", "--autoscale")
    up.ready()
    family = up.family()
    up.process.send_signal(signal.SIGINT)
    assert up.end(signal.SIGINT) in {0, 130}
    poll(lambda: gone(family), END_WITHIN_S)


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("--engine", "none", "--autoscale"), "--engine simulated"),
        (("--engine", "simulated", "--autoscale", "nowhere.yaml"), "nowhere.yaml"),
        (("--engine", "simulated", "--autoscale", "."), ". is a directory; a fleet is a file"),
    ],
)
def test_what_cannot_be_scaled_is_told(tmp_path: Path, words: tuple[str, ...], why: str) -> None:
    done = sluice("up", "--data-dir", str(tmp_path), *words)
    assert done.returncode == 2
    assert why in done.stderr
