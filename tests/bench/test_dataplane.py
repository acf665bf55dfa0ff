"""The data plane's benchmark leaves nothing behind, however it is ended."""

import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench.dataplane import processes

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(shutil.which("gcc") is None, reason="the instruments are compiled with gcc")
def test_a_benchmark_that_is_told_to_end_ends_what_it_started(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    argv = [sys.executable, "-m", "bench.dataplane", "--target", "direct", "--port", str(port)]
    bench = subprocess.Popen(argv, cwd=ROOT, stderr=subprocess.DEVNULL, text=True)
    try:
        deadline = time.monotonic() + 60
        started: list[int] = []
        while not any(_runs(pid, "upstream") for pid in started):
            assert time.monotonic() < deadline
            assert bench.poll() is None
            time.sleep(0.05)
            started = processes.tree(bench.pid)[1:]
        bench.send_signal(signal.SIGTERM)
        assert bench.wait(30) == 128 + signal.SIGTERM
        assert not any(_runs(pid, "upstream") for pid in started)
    finally:
        processes.end(bench)


def _runs(pid: int, name: str) -> bool:
    try:
        return (Path("/proc") / str(pid) / "comm").read_text().strip() == name
    except OSError:
        return False
