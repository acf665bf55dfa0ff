"""How much memory do gateway and worker take while a batch file of 200 MB is in flight?

    python -m bench.batch_memory          # two minutes

Real processes on loopback: a store, simulated replicas, one gateway, one worker. A small batch is
done first, so that what any batch needs is there already (idle); then the large file is uploaded,
its batch reviewed and run for a while. Resident memory is read ten times a second; what counts is
its peak over idle.
"""

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

import aiohttp
import orjson
import psutil
import uvloop

from backends.store import open_store
from bench.slo_stack import MODEL, Fleet, gateway, replicas, worker

MB = 1e6
EVERY_S = 0.1
SETTLE_S = 2.0
BAR_MB = 64.0


@dataclass(frozen=True, slots=True)
class Found:
    """Megabytes (10^6 bytes); `beyond` are peaks above idle: upload, review, rows running."""

    file_mb: float
    upload_s: float
    rows_done: int
    gateway_idle_mb: float
    gateway_beyond_mb: tuple[float, float, float]
    worker_idle_mb: float
    worker_beyond_mb: tuple[float, float, float]

    @property
    def is_kept(self) -> bool:
        """Whether both processes stayed within the bar."""
        return max(*self.gateway_beyond_mb, *self.worker_beyond_mb) <= BAR_MB


class Peaks:
    """The largest resident memory of a process since it was last asked."""

    def __init__(self, command: str) -> None:
        self._process = _child(command)
        self._peak = 0

    def look(self) -> None:
        """Take in what it is now."""
        self._peak = max(self._peak, self._process.memory_info().rss)

    def take(self) -> float:
        """Give the peak in MB and begin anew."""
        self.look()
        peak, self._peak = self._peak, 0
        return peak / MB


async def measure(options: argparse.Namespace, directory: Path) -> Found:
    """Upload, review and run, one after the other."""
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        store = await enter(open_store(None, directory / "store"))
        urls = await enter(replicas(Fleet([1.0] * 4), directory))
        url = await enter(gateway(urls, {}, directory, store.url))
        await enter(worker(directory, store.url))
        session = await enter(aiohttp.ClientSession(base_url=f"{url}/"))
        peaks = [Peaks("gateway"), Peaks("worker")]
        watch = asyncio.create_task(_watch(peaks))
        await _until_done(session, await _begin(session, _file(directory, 200, 4000)), 200)
        await asyncio.sleep(SETTLE_S)
        for each in peaks:
            each.take()
        await asyncio.sleep(SETTLE_S)
        idle = [each.take() for each in peaks]
        file = _file(directory, options.rows, round(options.mb * MB / options.rows))
        began = time.monotonic()
        file_id = await _upload(session, file)
        upload_s = time.monotonic() - began
        uploading = [each.take() for each in peaks]
        batch = await _create(session, file_id)
        await _until_done(session, batch, 1)
        reviewing = [each.take() for each in peaks]
        done = await _until_done(session, batch, options.run_rows)
        running = [each.take() for each in peaks]
        watch.cancel()
        async with session.post(f"batches/{batch}/cancel") as answer:
            answer.raise_for_status()
    seen = (uploading, reviewing, running)
    beyond = [tuple(round(part[n] - idle[n], 1) for part in seen) for n in range(2)]
    return Found(
        file_mb=round(file.stat().st_size / MB, 1),
        upload_s=round(upload_s, 1),
        rows_done=done,
        gateway_idle_mb=round(idle[0], 1),
        gateway_beyond_mb=(beyond[0][0], beyond[0][1], beyond[0][2]),
        worker_idle_mb=round(idle[1], 1),
        worker_beyond_mb=(beyond[1][0], beyond[1][1], beyond[1][2]),
    )


def _child(command: str) -> psutil.Process:
    for each in psutil.Process().children():
        words = each.cmdline()
        if "gateway.cli" in words and words[words.index("gateway.cli") + 1] == command:
            return each
    raise LookupError(f"no process of ours runs `{command}`")


async def _watch(peaks: Sequence[Peaks]) -> None:
    while True:
        for each in peaks:
            each.look()
        await asyncio.sleep(EVERY_S)


def _file(directory: Path, rows: int, row_bytes: int) -> Path:
    """Write a file of rows of one size, each asking for one token."""
    path = directory / f"rows-{rows}.jsonl"
    with path.open("wb") as out:
        for number in range(rows):
            body = {"model": MODEL, "max_tokens": 1, "messages": [{"role": "user", "content": ""}]}
            row = {"custom_id": f"row-{number}", "method": "POST", "url": "/v1/chat/completions"}
            empty = len(orjson.dumps({**row, "body": body})) + 1
            words = (f"{number:06d} " * (row_bytes // 7 + 1))[: max(row_bytes - empty, 1)]
            body["messages"] = [{"role": "user", "content": words}]
            out.write(orjson.dumps({**row, "body": body}) + b"\n")
    return path


async def _upload(session: aiohttp.ClientSession, path: Path) -> str:
    with path.open("rb") as file:
        form = aiohttp.FormData({"purpose": "batch"})
        form.add_field("file", file, filename=path.name)
        async with session.post("files", data=form) as answer:
            answer.raise_for_status()
            file_id: str = (await answer.json())["id"]
    return file_id


async def _create(session: aiohttp.ClientSession, file_id: str) -> str:
    asked = {"input_file_id": file_id, "endpoint": "/v1/chat/completions"}
    async with session.post("batches", json={**asked, "completion_window": "24h"}) as answer:
        answer.raise_for_status()
        batch: str = (await answer.json())["id"]
    return batch


async def _begin(session: aiohttp.ClientSession, path: Path) -> str:
    return await _create(session, await _upload(session, path))


async def _until_done(session: aiohttp.ClientSession, batch: str, rows: int) -> int:
    """Wait until so many rows are done; give how many are. Raises ValueError where it failed."""
    while True:
        async with session.get(f"batches/{batch}") as answer:
            answer.raise_for_status()
            found = await answer.json()
        if (
            found["status"] in ("failed", "expired", "cancelled")
            or found["request_counts"]["failed"]
        ):
            raise ValueError(f"the batch went wrong: {found}")
        done: int = found["request_counts"]["completed"]
        if done >= rows:
            return done
        await asyncio.sleep(0.1)


async def _main(options: argparse.Namespace) -> int:
    with tempfile.TemporaryDirectory(prefix="sluice-bench-") as name:
        found = await measure(options, Path(name))
    print("\n".join(f"{name:20} {value}" for name, value in asdict(found).items()))
    if options.json:
        options.json.write_text(json.dumps(asdict(found), indent=1))
    return 0 if found.is_kept else 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; status 1 where the bar was missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mb", type=float, default=200.0, help="of the file, 10^6 bytes each")
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--run-rows", type=int, default=5_000, help="watched while they run")
    parser.add_argument("--json", type=Path, help="write the figures there")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_main(parser.parse_args(arguments)))


if __name__ == "__main__":
    sys.exit(main())
