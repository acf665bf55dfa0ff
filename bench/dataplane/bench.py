"""What does one gateway cost? Starts it, loads it phase by phase, gives figures.

The upstream and the load generator run on one CPU, the gateway's processes on another.

- unary: open loop, 300 calls a second.
- streams: open loop, 150 streams a second of 4 chunks, then 32 of 200 chunks at 100 chunks a
  second each. Two equations give CPU per stream and per chunk; what a call costs more where calls
  are rare counts as its chunks'. So also 64 open streams, none of which begins or ends.
- saturated: closed loop; 64 unary calls in flight, then 256 streams at rising rates.
- memory: idle, and with 1,000 and 5,000 open streams.
- soak: streams of 1,000 chunks, each compared, until so many have gone through, or for so long.
"""

import json
import os
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

from bench.dataplane import processes
from bench.dataplane.instruments import Load, Sample, Seen, Upstream, generate
from bench.dataplane.targets import TARGETS, Command, Place

Figures = dict[str, float]

START_WITHIN_S = 60.0
GAP_US = 10_000
LONG = 1000  # tokens of a stream that outlasts its window, and still is one that an engine takes
# Offered to the saturated gateway, in microseconds between two chunks of each of 256 streams.
SATURATING_GAPS_US = (10_000, 5_000, 2_500)
BODY = b'{"model":"bench-model","messages":[{"role":"user","content":"hi"}],"max_tokens":1}'


class Bench:
    """One target, running."""

    def __init__(self, name: str, binaries: Path, *, port: int, cores: Sequence[str]) -> None:
        self._binaries = binaries
        self._instrument_pin = ("taskset", "-c", cores[0])
        self._stack = ExitStack()
        directory = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        self.directory = directory
        place = Place(port, port + 10, directory)
        try:
            self.upstream = Upstream.start(binaries, port, self._instrument_pin)
            self._stack.callback(processes.end, self.upstream.process)
            self.command = TARGETS[name](place)
            if self.command.beside is not None:
                self._stack.callback(processes.end, self.command.beside)
            self._gateway = self._start(self.command, cores[1])
            self.port = place.port if self._gateway else place.upstream
            self._await_answer()
        except BaseException:
            self._stack.close()
            raise

    def __enter__(self) -> "Bench":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._stack.close()

    def load(self, load: Load) -> Seen:
        """Run one load."""
        return generate(
            self._binaries, load, self.port, self.command.headers, self._instrument_pin, self.sample
        )

    def sample(self, with_memory: bool = False) -> Sample:
        """Look at what the processes have used until now."""
        pids = self.pids()
        store = self.command.beside
        return Sample(
            processes.cpu_s(pids),
            0.0 if store is None else processes.cpu_s(processes.tree(store.pid)),
            processes.kernel_ticks(pids),
            processes.busy_s() - processes.cpu_s(processes.tree(os.getpid())),
            processes.memory_bytes(pids) if with_memory else 0,
            int(json.loads(self.upstream.get("/_mock/stats"))["active"]) if with_memory else 0,
        )

    def pids(self) -> list[int]:
        """Give the gateway's processes."""
        return processes.tree(self._gateway.pid) if self._gateway else []

    def _start(self, command: Command, core: str) -> subprocess.Popen[str] | None:
        if not command.argv:
            return None
        log = self._stack.enter_context((self.directory / "log").open("w"))
        gateway = subprocess.Popen(
            ["taskset", "-c", core, *command.argv],
            env={**os.environ, **command.env},
            cwd=self.directory,
            stdout=log,
            stderr=log,
            text=True,
            start_new_session=True,
        )
        self._stack.callback(processes.end, gateway)
        return gateway

    def _await_answer(self) -> None:
        headers = {"content-type": "application/json"}
        split = (header.partition(": ") for header in self.command.headers)
        headers.update((name, value) for name, _, value in split)
        url = f"http://127.0.0.1:{self.port}/v1/chat/completions"
        asked = urllib.request.Request(url, BODY, headers)
        deadline = time.monotonic() + START_WITHIN_S
        while True:
            try:
                with urllib.request.urlopen(asked, timeout=5) as answer:
                    if b"choices" in answer.read():
                        return
            except OSError as error:
                ended = self._gateway is not None and self._gateway.poll() is not None
                if ended or time.monotonic() > deadline:
                    log = (self.directory / "log").read_text()[-1500:]
                    raise RuntimeError(f"the gateway does not answer: {error}\n{log}") from error
            time.sleep(0.2)


class Run:
    """One repetition on one target: figures by name, gathered phase by phase."""

    def __init__(self, bench: Bench, *, for_s: float, soak_chunks: int, soak_s: float) -> None:
        self.bench = bench
        self.for_s = for_s
        self.soak_chunks = soak_chunks
        self.soak_s = soak_s
        self.figures: Figures = {}
        self._idle_cpu = 0.0

    def phases(self, names: Sequence[str]) -> Figures:
        """Do the phases of these names in order."""
        known: dict[str, Callable[[], None]] = {
            "unary": self.unary,
            "streams": self.streams,
            "saturated": self.saturated,
            "memory": self.memory,
            "soak": self.soak,
        }
        self._warm_up()
        for name in names:
            known[name]()
        return self.figures

    def unary(self) -> None:
        """Calls without streaming, at a moderate rate."""
        seen = self._load("unary", Load(mode="open", per_s=300, for_s=self.for_s))
        self._note(
            unary_us=self._us(seen) / max(1, seen.of("ok")),
            unary_store_us=seen.store_s * 1e6 / max(1, seen.of("ok")),
            unary_p50_us=seen.of("e2e_p50"),
            unary_p99_us=seen.of("e2e_p99"),
        )

    def streams(self) -> None:
        """Short and long streams: calls * a + chunks * b = CPU, twice."""
        short = self._load("short", Load(mode="open", per_s=150, chunks=4, for_s=self.for_s))
        long = self._load(
            "long", Load(mode="open", per_s=32, chunks=200, warm_s=2.7, for_s=self.for_s)
        )
        (n1, k1, us1), (n2, k2, us2) = (
            (seen.of("ok") + seen.of("bad"), seen.of("chunks"), self._us(seen))
            for seen in (short, long)
        )
        if determinant := n1 * k2 - n2 * k1:
            self._note(
                stream_us=(us1 * k2 - us2 * k1) / determinant,
                chunk_us=(n1 * us2 - n2 * us1) / determinant,
            )
        alone = self._load(
            "open",
            Load(
                mode="closed", callers=64, checked=False, chunks=LONG, warm_s=1.0, for_s=self.for_s
            ),
        )
        time.sleep(0.5)
        self._note(
            open_chunk_us=self._us(alone) / max(1, alone.of("chunks")),
            ttft_p50_us=short.of("ttft_p50"),
            ttft_p99_us=short.of("ttft_p99"),
            delay_p50_us=long.of("delay_p50"),
            delay_p99_us=long.of("delay_p99"),
            kernel_share=long.kernel_share,
        )

    def saturated(self) -> None:
        """As much as one core does."""
        load = Load(mode="closed", callers=64, for_s=self.for_s)
        seen = self._load("saturated unary", load)
        self._note(saturated_unary_us=self._us(seen) / max(1, seen.of("ok")))
        if seen.cpu_s:
            self._note(calls_per_core=seen.of("ok") / seen.cpu_s)
        for gap_us in SATURATING_GAPS_US:
            self.bench.upstream.behave(gap_us=gap_us)
            load = Load(
                mode="closed", callers=256, chunks=LONG, checked=False, warm_s=1.5,
                for_s=self.for_s,
            )  # fmt: skip
            seen = self._load(f"saturated {gap_us}", load)
            per_s = 256 * 1_000_000 // gap_us
            self.figures[f"saturated_chunk_us_at_{per_s}"] = self._us(seen) / seen.of("chunks")
            self.figures[f"chunks_per_read_at_{per_s}"] = seen.of("chunks_per_read")
            if seen.cpu_s:
                self._note(chunks_per_core=seen.of("chunks") / seen.cpu_s)
            time.sleep(0.5)
        self.bench.upstream.behave(gap_us=GAP_US)

    def memory(self) -> None:
        """What open streams take."""
        self.bench.upstream.behave(gap_us=1_000_000)
        for callers in (1000, 5000):
            seen = self._load(
                f"hold {callers}",
                Load(
                    mode="hold", callers=callers, chunks=LONG, checked=False,
                    warm_s=4.0 + callers / 120, for_s=1.0,
                ),
            )  # fmt: skip
            if seen.begun.streams >= callers:  # else they wait somewhere, or were refused
                self.figures[f"memory_{callers}_bytes"] = float(seen.begun.memory_bytes)
            time.sleep(1.0)
        many = self.figures.get("memory_5000_bytes")
        if many is not None and "idle_bytes" in self.figures:
            self._note(stream_bytes=(many - self.figures["idle_bytes"]) / 5000)
        self.bench.upstream.behave(gap_us=GAP_US)

    def soak(self) -> None:
        """Compare chunk after chunk until so many have gone through, or the time is over."""
        self.bench.upstream.behave(gap_us=5_000)
        self._note(soak_chunks=0.0, soak_lost=0.0, soak_altered=0.0, soak_bad=0.0)
        ends_at = time.monotonic() + self.soak_s
        while self.figures["soak_chunks"] < self.soak_chunks and time.monotonic() < ends_at:
            load = Load(mode="closed", callers=200, chunks=1000, for_s=30.0)
            seen = self._load("soak", load)
            self.figures["soak_chunks"] += seen.of("seen")
            self.figures["soak_lost"] += seen.of("lost")
            self.figures["soak_altered"] += seen.of("altered")
            self.figures["soak_bad"] += seen.of("bad")
        self.bench.upstream.behave(gap_us=GAP_US)

    def _warm_up(self) -> None:
        self.bench.upstream.behave(gap_us=GAP_US)
        self.bench.load(Load(mode="closed", callers=8, warm_s=0.0, for_s=1.0))
        self.bench.load(Load(mode="closed", callers=16, chunks=20, warm_s=0.0, for_s=1.0))
        time.sleep(0.5)
        before = self.bench.sample()
        time.sleep(1.0)
        after = self.bench.sample(with_memory=True)
        self._idle_cpu = after.cpu_s - before.cpu_s
        self._note(idle_bytes=float(after.memory_bytes), idle_cpu=self._idle_cpu)

    def _load(self, name: str, load: Load) -> Seen:
        seen = self.bench.load(load)
        wrong = sum(seen.of(each) for each in ("bad", "lost", "altered"))
        self.figures["bad"] = self.figures.get("bad", 0.0) + wrong
        if wrong:
            print(f"  {name}: {seen.report}", flush=True)
        others = (seen.ended.busy_s - seen.begun.busy_s) / seen.of("secs")
        self.figures["others_cores"] = max(others, self.figures.get("others_cores", 0.0))
        return seen

    def _us(self, seen: Seen) -> float:
        """Give the CPU of a window in microseconds, less what the gateway uses when idle."""
        return max(0.0, seen.cpu_s - self._idle_cpu * seen.of("secs")) * 1e6

    def _note(self, **figures: float) -> None:
        self.figures.update(figures)
