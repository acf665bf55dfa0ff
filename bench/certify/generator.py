"""What can one core of the load generator carry? How late it is, and what a chunk costs it.

    python -m bench.certify.generator --rate 100 --seconds 20

An upstream in C (`bench/dataplane/upstream.c`, which costs less than what is measured) answers
`--rate` queries a second in `--chunks` chunks each, ten milliseconds apart, and the same again in a
tenth of them. CPU time of the generator's process over chunks, as the slope between the two, is
what a chunk costs; the rest is the query's. Lateness is what each run's own report says of it.
`--guidellm PYTHON` has guidellm do the same, by the Python of an environment where it is installed.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.dataplane import processes
from bench.dataplane.instruments import NoCompiler, Upstream, build

GAP_US = 10_000
SCENARIO = """
model: bench-model
api: chat
token_latencies: true
whole_passes: false
dataset:
  name: none
  samples: 1000
  stand_in:
    prompt_tokens: {{fixed: 20}}
    output_tokens: {{fixed: {chunks}}}
request: {{temperature: 0}}
scenarios:
  server: {{mode: Server, loadgen_key: bench-model, ttft_ms: 2000, tpot_ms: 200}}
"""


@dataclass(frozen=True, slots=True)
class Measured:
    """One run: queries and chunks carried, CPU seconds of the generator, its own lateness (ms)."""

    queries: int
    chunks: int
    cpu_s: float
    late_p50_ms: float
    late_p99_ms: float


def certify(url: str, into: Path, *, chunks: int, rate: float, seconds: float) -> Measured:
    """Run our generator, in one process. Raises RuntimeError if queries went unanswered."""
    scenario = into / f"{chunks}.yaml"
    scenario.write_text(SCENARIO.format(chunks=chunks), encoding="utf-8")
    out = into / f"run-{chunks}"
    argv = [sys.executable, "-m", "loadtest", "--base-url", url, "--quiet"]
    argv += ["--model", "bench-model", "--scenario", f"{scenario}:server", "--out", str(out)]
    argv += ["--target-qps", str(rate), "--duration", str(seconds), "--min-queries", "1"]
    done = subprocess.run(argv, check=False, capture_output=True, text=True)
    if not (out / "summary.json").exists():
        raise RuntimeError(f"certify wrote no summary: {done.stderr or done.stdout}")
    summary: dict[str, Any] = json.loads((out / "summary.json").read_text())
    (costs,) = json.loads((out / "status.json").read_text())["costs"]
    if summary["queries"]["answered"] != summary["queries"]["offered"]:
        raise RuntimeError(f"unanswered queries: {summary['queries']['outcomes']}")
    late = summary["generator_lateness_ms"]
    return Measured(costs["queries"], costs["chunks"], costs["cpu_s"], late["p50"], late["p99"])


def guidellm(
    python: str, upstream: Upstream, into: Path, *, chunks: int, rate: float, seconds: float
) -> tuple[float, int]:
    """Run guidellm at the same load; give the CPU seconds of its processes and the chunks sent."""
    data = into / f"prompts-{chunks}.jsonl"
    line = json.dumps({"prompt": "word " * 20, "output_tokens_count": chunks})
    data.write_text(f"{line}\n" * 1000, encoding="utf-8")
    url = f"http://127.0.0.1:{upstream.port}"
    argv = [python, "-m", "guidellm", "run", "--disable-console"]
    argv += ["--backend", f"kind=openai_http,target={url},model=bench-model"]
    argv += ["--profile", f"kind=poisson,rate={rate}"]
    argv += ["--constraint", f"kind=max_duration,seconds={seconds}"]
    argv += ["--data", f"kind=json_file,path={data}"]
    argv += ["--output", f"kind=json,path={into / 'guidellm.json'}"]
    before, sent = resource.getrusage(resource.RUSAGE_CHILDREN), _sent(upstream)
    done = subprocess.run(argv, check=False, capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise RuntimeError(f"guidellm ended with {done.returncode}: {done.stderr[-800:]}")
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return cpu_s, _sent(upstream) - sent


def _sent(upstream: Upstream) -> int:
    return int(json.loads(upstream.get("/_mock/stats"))["chunks"])


def ours(url: str, into: Path, options: argparse.Namespace) -> None:
    """Print what a chunk and a query cost us, and how late we are."""
    load = {"rate": options.rate, "seconds": options.seconds}
    many = certify(url, into, chunks=options.chunks, **load)
    few = certify(url, into, chunks=max(2, options.chunks // 10), **load)
    chunk_s = (many.cpu_s - few.cpu_s) / (many.chunks - few.chunks)
    query_s = (few.cpu_s - few.chunks * chunk_s) / few.queries
    for run in (many, few):
        print(
            f"{run.queries} queries, {run.chunks} chunks ({run.chunks / options.seconds:,.0f}/s):"
            f" late p50 {run.late_p50_ms:.2f} ms, p99 {run.late_p99_ms:.2f} ms;"
            f" {100 * run.cpu_s / options.seconds:.0f} % of a core"
        )
    print(
        f"CPU per chunk {1e6 * chunk_s:.1f} us, per query beside its chunks {1e3 * query_s:.2f} ms"
    )


def theirs(upstream: Upstream, into: Path, options: argparse.Namespace) -> None:
    """Print what a chunk costs guidellm at the same load."""
    load = {"rate": options.rate, "seconds": options.seconds}
    few = max(2, options.chunks // 10)
    most_s, most = guidellm(options.guidellm, upstream, into, chunks=options.chunks, **load)
    least_s, least = guidellm(options.guidellm, upstream, into, chunks=few, **load)
    print(f"guidellm: CPU per chunk {1e6 * (most_s - least_s) / (most - least):.1f} us")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rate", type=float, default=100.0, help="queries per second")
    parser.add_argument("--chunks", type=int, default=50, help="chunks of an answer")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--port", type=int, default=18_700)
    parser.add_argument("--guidellm", help="python of an environment that has guidellm")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as name:
        into = Path(name)
        try:
            build(into)
        except NoCompiler as missing:
            parser.error(str(missing))
        upstream = Upstream.start(into, options.port, ())
        try:
            upstream.behave(gap_us=GAP_US)
            url = f"http://127.0.0.1:{options.port}"
            ours(f"{url}/v1", into, options)
            if options.guidellm:
                theirs(upstream, into, options)
        finally:
            processes.end(upstream.process)
    return 0


if __name__ == "__main__":
    sys.exit(main())
