"""Does `sluice certify` give the right verdict of a live endpoint, and its evidence?"""

from __future__ import annotations

import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from loadtest import certify as runs
from loadtest import plan, results
from loadtest.cli import code_of, main
from loadtest.launch import Generators
from loadtest.options import RunOptions
from loadtest.progress import Terminal
from loadtest.results import Outcomes

ROOT = Path(__file__).parents[2]
Scenarios = Callable[..., Path]
pytestmark = pytest.mark.system


def certify(base_url: str, path: Path, out: Path, *, smoke: bool = False, **more: Any) -> Outcomes:
    """Run, judge and write, without the page; that a busy machine delays us is no matter here."""
    options = {
        "scenario": str(path),
        "model": "own",
        "late_bound_ms": 60_000.0,
        "warm_up": 2,
    } | more
    made = plan.make(RunOptions.of(options))
    quiet = Terminal(quiet=True)
    return runs.certify(made, base_url, out, Generators(), quiet, runs.Interrupted(), smoke=smoke)


def whats(found: Outcomes) -> list[str]:
    return [reason.what for reason in found.judgement.reasons]


def test_a_fast_endpoint_is_valid_and_its_evidence_is_whole(
    fast: str, scenario: Scenarios, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    path = scenario(ttft_ms=60_000, tpot_ms=60_000)
    arguments = ["--base-url", fast, "--scenario", str(path), "--model", "own", "--quiet"]
    arguments += ["--target-qps", "260", "--late-bound-ms", "60000", "--workers", "2"]
    assert main([*arguments, "--out", str(out)]) == 0
    assert capsys.readouterr().out.startswith("VALID  ")
    page = results.read_summary(out)
    assert page["verdict"] == "VALID"
    assert page["queries"]["outcomes"] == {"ok": page["queries"]["offered"]}
    assert page["queries"]["tokens"] == 8 * page["queries"]["offered"]
    assert page["headline"]["metric"] == "tokens_per_second"
    assert page["faithful"] is False
    assert any("stand-in" in text for text in page["deviations"])
    assert page["manifest"]["reported"]["/v1/models"]["data"][0]["id"] == "any"
    shares = [one["queries"] for one in page["generators"]]
    assert sum(shares) == page["queries"]["offered"], "two generators split one schedule"
    assert max(shares) - min(shares) <= 1
    assert {entry.name for entry in out.iterdir()} == {
        "summary.json", "detail.jsonl.zst", "mlperf_log_summary.txt", "report.html", "locust.log",
        "status.json",
    }  # fmt: skip
    detail = list(results.read_detail(out / results.DETAIL))
    assert [row["position"] for row in detail] == list(range(page["queries"]["offered"]))
    assert "Result is : VALID" in (out / results.MLPERF).read_text()
    text = (out / results.REPORT).read_text()
    assert text.count("<svg") == 8
    assert "synthetic" in text
    assert "<script" not in text
    assert 'src="' not in text, "the page needs nothing beside it"
    assert "<link" not in text


def test_a_slow_endpoint_is_invalid_for_its_reasons(
    fast: str, scenario: Scenarios, tmp_path: Path
) -> None:
    path = scenario(ttft_ms=2, tpot_ms=0.1, duration_s=1)
    found = certify(fast, path, tmp_path, target_qps=100.0)
    assert code_of(found) == 1
    assert whats(found) == ["ttft", "tpot", "early_stopping_tpot", "early_stopping_ttft"]


def test_a_smoke_run_shows_a_broken_path(fast: str, scenario: Scenarios, tmp_path: Path) -> None:
    dataset = tmp_path / "bad.jsonl"
    dataset.write_text('{"prompt": "fault:500"}\n')
    path = scenario(duration_s=0.2)
    more: dict[str, Any] = {"target_qps": 40.0, "dataset": str(dataset), "smoke": True}
    found = certify(fast, path, tmp_path / "out", **more)
    assert (code_of(found), found.judgement.verdict) == (1, "SMOKE")
    assert found.status["errors"] == {"failed: as asked: 500": len(found.log)}
    assert runs.smoke_failures(found.judgement)


def test_refusals_count_as_misses_by_class_and_tenant(
    fast: str, scenario: Scenarios, tmp_path: Path
) -> None:
    dataset = tmp_path / "mixed.jsonl"
    rows = [
        {"prompt": "hello", "max_tokens": 4, "class": "interactive", "tenant": "a"},
        {"prompt": "fault:429", "max_tokens": 4, "class": "offline", "tenant": "b"},
    ]
    dataset.write_text("".join(json.dumps(row) + "\n" for row in rows))
    path = scenario(ttft_ms=60_000, tpot_ms=60_000, duration_s=1)
    more: dict[str, Any] = {"target_qps": 60.0, "dataset": str(dataset), "arrival": "constant"}
    page = results.summary(certify(fast, path, tmp_path / "out", **more))
    assert page["verdict"] == "INVALID"
    assert page["queries"]["outcomes"] == {"ok": 30, "refused": 30}
    shares = page["goodput"]["by_class"]
    assert shares["interactive"]["attainment"] == 1
    assert shares["offline"]["attainment"] == 0
    assert page["goodput"]["by_tenant"]["b"]["offered"] == 30
    assert page["goodput"]["overall"]["attainment"] == 0.5


def test_an_offline_run_divides_by_its_last_completion(
    fast: str, scenario: Scenarios, tmp_path: Path
) -> None:
    path = scenario(mode="Offline", duration_s=0.01, queries=200)
    page = results.summary(certify(fast, path, tmp_path, target_qps=10.0, samples=200))
    assert page["verdict"] == "VALID"
    assert page["queries"]["offered"] == 200
    assert page["headline"]["value"] == pytest.approx(1600 / page["rates"]["window_s"])


def test_single_stream_runs_one_query_after_the_other(
    fast: str, scenario: Scenarios, tmp_path: Path
) -> None:
    path = scenario(
        mode="SingleStream", api="videos", ttft_ms=None, percentile=0.9, duration_s=6.0, queries=64
    )
    page = results.summary(certify(fast, path, tmp_path, poll_s=0.005))
    assert page["verdict"] == "VALID", "the last query starts after the minimum duration"
    assert page["rates"]["duration_s"] >= 6.0
    assert page["headline"]["value"] >= 0.05
    detail = list(results.read_detail(tmp_path / results.DETAIL))
    assert detail[0]["sent"] >= 0
    assert all(a["done"] <= b["sent"] for a, b in itertools.pairwise(detail))


def test_a_recorded_trace_is_replayed(fast: str, scenario: Scenarios, tmp_path: Path) -> None:
    trace = tmp_path / "trace.csv"
    rows = [f"{i * 0.5},{10 + i},{3 + i % 4}" for i in range(60)]
    trace.write_text("\n".join(["t_s,in_tokens,out_tokens", *rows]))
    path = scenario(ttft_ms=60_000, tpot_ms=60_000)
    more: dict[str, Any] = {"arrival": "trace", "trace": str(trace), "trace_speed": 30.0}
    found = certify(fast, path, tmp_path / "out", **more)
    assert whats(found) == ["early_stopping_tpot", "early_stopping_ttft"], "60 are too few"
    assert found.log.column("tokens").tolist() == [3 + i % 4 for i in range(60)]
    assert found.log.column("scheduled")[-1] == round(29.5 / 30 * 1e9)


def test_what_cannot_be_judged_is_said(
    scenario: Scenarios, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "out")
    arguments = ["--model", "own", "--quiet", "--out", out, "--scenario", str(scenario())]
    assert main([*arguments, "--base-url", "ftp://nowhere"]) == 2
    assert "not an http(s) URL" in capsys.readouterr().err
    assert main([*arguments, "--seed", "v5"]) == 2
    assert main(["--model", "unknown", "--quiet", "--out", out]) == 2
    assert "llama2-70b" in capsys.readouterr().err


def test_an_endpoint_that_nobody_serves_is_said_at_once(
    scenario: Scenarios, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    arguments = ["--model", "own", "--quiet", "--out", str(out), "--scenario", str(scenario())]
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # bound, and not listened on
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/v1"
        for more in ((), ("--search",)):
            assert main([*arguments, "--base-url", url, *more]) == 2
            assert f"{url} cannot be reached" in capsys.readouterr().err
    assert not out.exists()


def test_an_interrupted_run_keeps_what_it_has_and_is_incomplete(
    fast: str, scenario: Scenarios, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    path = scenario(duration_s=600)
    command = [sys.executable, "-m", "loadtest", "--base-url", fast, "--scenario", str(path)]
    command += ["--model", "own", "--target-qps", "50", "--out", str(out)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        records = out / "records.bin"
        deadline = time.monotonic() + 60
        while not (records.exists() and records.stat().st_size):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        os.kill(process.pid, signal.SIGINT)
        told, _ = process.communicate(timeout=60)
    assert process.returncode == 2
    assert told.startswith("INCOMPLETE")
    page = results.read_summary(out)
    assert page["verdict"] == "INCOMPLETE"
    assert page["queries"]["recorded"] > 0
    assert page["queries"]["offered"] > page["queries"]["recorded"]
    assert (out / results.REPORT).exists()


def test_the_known_scenarios_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    assert "llama2-70b: interactive, offline, server" in capsys.readouterr().out
