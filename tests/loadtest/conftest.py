"""The endpoint under test, as a process of its own, once per worker of the test run."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@contextmanager
def endpoint(*arguments: str) -> Iterator[str]:
    """Start an endpoint; give its base URL."""
    command = [sys.executable, "-m", "tests.loadtest.endpoint", *arguments]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{process.stdout.readline().strip()}/v1"
        finally:
            process.kill()


@pytest.fixture(scope="session")
def fast() -> Iterator[str]:
    """An endpoint that answers in milliseconds."""
    with endpoint("--ttft-ms", "5", "--tpot-ms", "1") as base_url:
        yield base_url


Scenarios = Callable[..., Path]


@pytest.fixture
def scenario(tmp_path: Path) -> Scenarios:
    """Write a scenario file with the limits that a test wants."""

    def write(
        *,
        mode: str = "Server",
        api: str = "chat",
        tokens: int = 8,
        ttft_ms: float | None = 2000,
        tpot_ms: float | None = 500,
        duration_s: float = 2,
        queries: int = 1,
        percentile: float = 0.99,
        whole: bool = False,
    ) -> Path:
        limits = f"ttft_ms: {ttft_ms}, tpot_ms: {tpot_ms}, " if ttft_ms and tpot_ms else ""
        path = tmp_path / "own.yaml"
        path.write_text(
            f"""
model: own
api: {api}
token_latencies: {str(ttft_ms is not None).lower()}
whole_passes: {str(whole).lower()}
dataset:
  name: own
  samples: 50
  stand_in: {{prompt_tokens: {{fixed: 12}}, output_tokens: {{fixed: {tokens}}}}}
scenarios:
  own: {{mode: {mode}, {limits}min_duration_s: {duration_s}, min_queries: {queries},
        percentile: {percentile}}}
"""
        )
        return path

    return write
