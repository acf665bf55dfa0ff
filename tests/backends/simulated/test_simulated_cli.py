"""Simulated replicas as a process of their own."""

import json
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from backends.simulated.cli import main

pytestmark = pytest.mark.system


def test_it_announces_its_replicas_and_drains_on_sigterm(tmp_path: Path) -> None:
    ready = tmp_path / "ready.json"
    argv = [
        sys.executable,
        "-m",
        "backends.simulated",
        "--model",
        "gpt-oss-120b",
        "--replicas",
        "2",
    ]
    argv += ["--ready-file", str(ready), "--stream-interval", "4"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            announced = json.loads(process.stdout.readline())
            assert json.loads(ready.read_text()) == announced
            assert len(set(announced["urls"])) == 2
            assert (announced["model"], announced["hardware"]) == ("gpt-oss-120b", "mi355x")
            url = announced["urls"][0]
            with urllib.request.urlopen(_generate(url), timeout=20) as answer:
                first = answer.readline()
                process.send_signal(signal.SIGTERM)
                rest = answer.read()
            assert first.startswith(b"data: ")
            assert rest.endswith(b"data: [DONE]\n\n")
            assert process.wait(timeout=20) == 0
        finally:
            process.kill()


def test_a_second_signal_ends_it_at_once(tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "backends.simulated", "--mean-output-tokens", "100000"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            url = json.loads(process.stdout.readline())["urls"][0]
            with urllib.request.urlopen(_generate(url, tokens=3900), timeout=20) as answer:
                answer.readline()
                process.send_signal(signal.SIGTERM)
                deadline = time.monotonic() + 10
                while _status(url + "/ready") != 503:
                    assert time.monotonic() < deadline
                process.send_signal(signal.SIGTERM)
                assert process.wait(timeout=10) == 0
        finally:
            process.kill()


@pytest.mark.parametrize(
    ("argv", "said"),
    [(["--hardware", "h100"], "known are mi355x"), (["--faults", "x=1"], "unknown fault")],
)
def test_bad_options_are_named(
    argv: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(argv) == 2
    assert said in capsys.readouterr().err


def _generate(url: str, tokens: int = 40) -> urllib.request.Request:
    body = {
        "messages": [{"role": "user", "content": "Hi"}],
        "max_tokens": tokens,
        "ignore_eos": True,
        "stream": True,
    }
    return urllib.request.Request(
        url + "/v1/chat/completions",
        data=json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
    )


def _status(url: str) -> int:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        error.close()
        return error.code
