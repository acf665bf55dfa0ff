"""Does a build's step tell how far it is, why it failed, and leave no process?"""

import os
import sys
from pathlib import Path

import psutil
import pytest

from backends.embedded import steps


def test_a_step_says_that_it_began_and_ended(tmp_path: Path) -> None:
    said: list[str] = []

    steps.run("[1/2] packages", [sys.executable, "-c", ""], log=tmp_path / "log", say=said.append)

    assert said[0] == "[1/2] packages ..."
    assert said[-1].startswith("[1/2] packages: done in ")


def test_a_slow_step_says_that_it_goes_on(tmp_path: Path) -> None:
    said: list[str] = []
    gate = tmp_path / "gate"
    os.mkfifo(gate)

    def say(line: str) -> None:
        said.append(line)
        if len(said) == 3:  # began, and went on twice: now it may end
            gate.write_text("go")

    argv = [sys.executable, "-c", f"open({str(gate)!r}).read()"]
    steps.run("packages", argv, log=tmp_path / "log", say=say, beat_s=0.01)

    assert len(said) >= 4
    assert said[1].startswith("packages ... ")


def test_a_failed_step_tells_the_end_of_its_output(tmp_path: Path) -> None:
    argv = [sys.executable, "-c", "print('no such wheel'); raise SystemExit(3)"]

    with pytest.raises(steps.BuildFailed, match="exit status 3\n  no such wheel"):
        steps.run("packages", argv, log=tmp_path / "log", say=lambda line: None)


def test_an_interrupted_step_ends_its_command(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    script = (
        "import os, pathlib, threading\n"
        f"path = pathlib.Path({str(pid_file)!r})\n"
        "path.with_suffix('.part').write_text(str(os.getpid()))\n"
        "path.with_suffix('.part').rename(path)\n"
        "threading.Event().wait(60)\n"
    )

    def interrupt_once_it_runs(line: str) -> None:
        if pid_file.exists():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        steps.run(
            "packages",
            [sys.executable, "-c", script],
            log=tmp_path / "log",
            say=interrupt_once_it_runs,
            beat_s=0.01,
        )

    assert not psutil.pid_exists(int(pid_file.read_text()))


def test_a_step_runs_in_the_environment_that_it_is_given(tmp_path: Path) -> None:
    log = tmp_path / "log"
    argv = [sys.executable, "-c", "import os; print(os.environ['OFFLINE'])"]

    steps.run("weights", argv, log=log, say=lambda line: None, environ={"OFFLINE": "1"})

    assert log.read_text() == "1\n"
