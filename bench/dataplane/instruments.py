"""With what is measured? Two small C programs, since the instrument must cost less than the thing.

`upstream.c` streams like an engine, `loadgen.c` calls like many callers. They are compiled when a
benchmark begins.
"""

import json
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.dataplane import processes

HERE = Path(__file__).parent
READY_WITHIN_S = 10.0
REPLICAS = 8  # as many as a node has


class NoCompiler(RuntimeError):
    """There is no C compiler on PATH."""


def build(into: Path) -> None:
    """Compile both instruments. Raises NoCompiler, or CalledProcessError."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        raise NoCompiler("the benchmark needs gcc, or another C compiler named cc")
    for name in ("upstream", "loadgen"):
        source = str(HERE / f"{name}.c")
        subprocess.run([compiler, "-O2", "-o", str(into / name), source, "-lm"], check=True)


def replica_urls(port: int) -> list[str]:
    """Give the URLs of the replicas on a port."""
    return [f"http://127.0.0.{number}:{port}" for number in range(1, REPLICAS + 1)]


@dataclass(frozen=True, slots=True)
class Upstream:
    """The running upstream: one process that stands for REPLICAS replicas."""

    process: subprocess.Popen[str]
    port: int

    @classmethod
    def start(cls, binaries: Path, port: int, pin: Sequence[str]) -> "Upstream":
        """Start it, and return when it answers."""
        argv = [*pin, str(binaries / "upstream"), str(port), str(REPLICAS)]
        upstream = cls(subprocess.Popen(argv, text=True), port)
        try:
            upstream.await_answer()
        except BaseException:
            processes.end(upstream.process)
            raise
        return upstream

    def await_answer(self) -> None:
        """Return when it answers; raises OSError where it does not."""
        deadline = time.monotonic() + READY_WITHIN_S
        while True:
            try:
                self.get("/_mock/stats")
            except OSError:
                if time.monotonic() > deadline or self.process.poll() is not None:
                    raise
                time.sleep(0.05)
            else:
                return

    def get(self, path: str) -> bytes:
        """Ask for one of its own pages."""
        url = f"http://127.0.0.1:{self.port}{path}"
        with urllib.request.urlopen(url, timeout=5) as answer:
            body: bytes = answer.read()
        return body

    def behave(self, *, gap_us: int, tokens_per_chunk: int = 1) -> None:
        """Set the time between the chunks of a stream, and what is in one."""
        self.get(f"/_mock/config?ttft_us=0&itl_us={gap_us}&tpc={tokens_per_chunk}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """One run of the generator.

    `mode`: "closed" keeps `callers` calls in flight, "open" starts `per_s` a second (Poisson),
    "hold" opens `callers` streams and keeps them. `chunks` 0: unary calls. `checked`: a stream is
    good only with exactly `chunks` chunks.
    """

    mode: str
    callers: int = 0
    per_s: float = 0.0
    chunks: int = 0
    checked: bool = True
    warm_s: float = 0.5
    for_s: float = 4.0

    def arguments(self) -> list[str]:
        """Give the generator's options."""
        given = ["-m", self.mode, "-w", str(self.warm_s), "-d", str(self.for_s), "-v"]
        given += ["-c", str(self.callers), "-r", str(self.per_s), "-s", str(int(self.chunks > 0))]
        if self.chunks:
            given += ["-t", str(self.chunks)]
            given += ["-e", str(self.chunks)] if self.checked else []
        return given


@dataclass(frozen=True, slots=True)
class Sample:
    """What the processes have used when a window began or ended; streams open at the upstream."""

    cpu_s: float
    store_s: float
    ticks: tuple[int, int]
    busy_s: float
    memory_bytes: int
    streams: int


Look = Callable[[bool], Sample]


@dataclass(frozen=True, slots=True)
class Seen:
    """What the generator saw in its window, and what the gateway used meanwhile."""

    report: dict[str, Any]
    begun: Sample
    ended: Sample

    @property
    def cpu_s(self) -> float:
        """CPU seconds of the gateway's processes."""
        return self.ended.cpu_s - self.begun.cpu_s

    @property
    def store_s(self) -> float:
        """CPU seconds of the store beside it."""
        return self.ended.store_s - self.begun.store_s

    @property
    def kernel_share(self) -> float:
        """Share of the CPU time spent in the kernel."""
        user = self.ended.ticks[0] - self.begun.ticks[0]
        system = self.ended.ticks[1] - self.begun.ticks[1]
        return system / max(1, user + system)

    def of(self, name: str) -> float:
        """Give one number of the generator's report."""
        return float(self.report[name])


def generate(
    binaries: Path, load: Load, port: int, headers: Sequence[str], pin: Sequence[str], look: Look
) -> Seen:
    """Run the generator; `look` is called as the window begins (True: with memory) and ends."""
    argv = [*pin, str(binaries / "loadgen"), "-p", str(port), *load.arguments()]
    for header in headers:
        argv += ["-h", header]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    begun = ended = None
    report: dict[str, Any] | None = None
    assert process.stdout is not None  # noqa: S101 a pipe was asked for
    try:
        for line in process.stdout:
            if line.startswith("START"):
                begun = look(load.mode == "hold")  # before its end closes what it holds
            elif line.startswith("STOP"):
                ended = look(False)
            else:
                report = json.loads(line)
    finally:
        processes.end(process)
    if begun is None or ended is None or report is None:
        raise RuntimeError("the load generator ended early")
    return Seen(report, begun, ended)
