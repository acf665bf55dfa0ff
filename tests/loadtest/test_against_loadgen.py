"""Does our judgement of a log equal that of MLPerf's own LoadGen, to the last digit?

LoadGen (the `mlcommons-loadgen` wheel) runs against a system that answers after drawn times. From
its trace we take each sample's instants, judge them ourselves, and compare the whole text of
mlperf_log_summary.txt up to the settings.
"""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from loadtest import logsummary, order, schedule
from loadtest.judgement import Verdict
from loadtest.records import Log
from loadtest.rules import Mode, Rules
from loadtest.seeds import ROUNDS
from loadtest.verdict import judge

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("mlperf_loadgen") is None,
    reason="mlcommons-loadgen is not installed: its wheel does not exist for every platform",
)

V60 = ROUNDS["v6.0"]
BASE: dict[str, Any] = {
    "scenario": "Server",
    "seeds": [V60.load_order, V60.sample_order, V60.arrivals],
    "qps": 600,
    "min_duration_ms": 1000,
    "min_queries": 100,
    "size": 64,
    "whole": True,
    "token": True,
    "tokens": [2, 40],
    "ttft_s": 0.006,
    "tpot_s": 0.0005,
    "ttft_limit_ns": 400_000_000,
    "tpot_limit_ns": 100_000_000,
    "latency_limit_ns": 0,
    "slow": [],
    "slow_s": 1.0,
    "draw_seed": 1,
}
CASES: dict[str, dict[str, Any]] = {
    # A busy machine may answer late, but not as late as this.
    "server-valid": {"ttft_limit_ns": 100_000_000_000, "tpot_limit_ns": 10_000_000_000},
    "server-ttft-early-stopping": {"slow": [20, 90]},
    "server-ttft-percentile": {"slow": list(range(50, 90))},
    "server-tpot": {"tpot_limit_ns": 100_000},
    "server-both": {"tpot_limit_ns": 100_000, "ttft_limit_ns": 2_000_000},
    "server-too-few": {"min_duration_ms": 300},
    "server-single-tokens": {"tokens": [1, 3]},
    "server-latency-valid": {"token": False, "latency_limit_ns": 100_000_000_000},
    "server-latency": {"token": False, "latency_limit_ns": 5_000_000},
    "single-stream-valid": {
        "scenario": "SingleStream",
        "token": False,
        "whole": False,
        "min_duration_ms": 400,
    },
    "single-stream-too-few": {
        "scenario": "SingleStream",
        "token": False,
        "whole": False,
        "min_queries": 22,
        "min_duration_ms": 30,
    },
    "single-stream-99": {
        "scenario": "SingleStream",
        "token": False,
        "whole": False,
        "min_queries": 700,
        "min_duration_ms": 300,
        "ttft_s": 0.001,
    },
    "offline-valid": {"scenario": "Offline", "min_duration_ms": 400, "slow": [5]},
    "offline-too-short": {"scenario": "Offline", "min_duration_ms": 1500},
    "offline-samples": {
        "scenario": "Offline",
        "min_duration_ms": 400,
        "token": False,
        "whole": False,
        "slow": [5],
    },
}


@pytest.mark.parametrize("name", CASES)
def test_every_line_of_the_summary_is_loadgens(name: str, tmp_path: Path) -> None:
    config = BASE | CASES[name] | {"out": str(tmp_path)}
    run_loadgen(config, tmp_path)
    theirs = figures_of((tmp_path / "mlperf_log_summary.txt").read_text())
    log = traced(config, tmp_path)
    judgement = judge(log, rules_of(config))
    ours = figures_of(logsummary.render(judgement, name="PySUT", parameters={}, notes=[]))
    assert ours == theirs
    if "valid" in name:
        assert judgement.verdict is Verdict.VALID
    elif not name.endswith(("-99", "-samples", "-tokens")):
        assert judgement.verdict is Verdict.INVALID


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize(("scenario", "size"), [("Server", 64), ("Server", 150), ("Offline", 64)])
def test_samples_are_issued_in_loadgens_order(
    scenario: str, size: int, whole: bool, tmp_path: Path
) -> None:
    config = BASE | {"scenario": scenario, "size": size, "whole": whole, "out": str(tmp_path)}
    config |= {"min_duration_ms": 300, "token": False, "ttft_s": 0.001}
    run_loadgen(config, tmp_path)
    theirs = [args["sample_idx"] for _, args in sample_events(tmp_path)]
    count = len(theirs)
    if scenario == "Offline":
        ours = order.offline(V60, size, count, shuffled=whole)
    elif whole:
        ours = order.equal_issue(V60, size, count, min_queries=100)
    else:
        ours = order.with_replacement(V60, size, count, min_queries=100)
    assert ours.tolist() == theirs


def test_queries_are_scheduled_at_loadgens_instants(tmp_path: Path) -> None:
    config = BASE | {"min_duration_ms": 800, "token": False, "out": str(tmp_path)}
    run_loadgen(config, tmp_path)
    theirs = np.array([stamp for stamp, _ in sample_events(tmp_path)])
    made = schedule.server(
        V60, 600, dataset_size=64, min_duration_s=0.8, min_queries=100, whole=True
    )
    assert (theirs - theirs[0]).tolist() == made.arrivals_ns.tolist()


def run_loadgen(config: dict[str, Any], out: Path) -> None:
    path = out / "config.json"
    path.write_text(json.dumps(config))
    command = [sys.executable, "-m", "tests.loadtest.loadgen_replay", str(path)]
    subprocess.run(command, check=True, timeout=60, cwd=Path(__file__).parents[2])


def sample_events(out: Path) -> list[tuple[int, dict[str, int]]]:
    """Read (scheduled ns, arguments) of each sample in order of its sequence."""
    found = []
    for line in (out / "mlperf_log_trace.json").read_text().splitlines():
        if line.startswith('{"name":"Sample","cat":"default","ph":"b"'):
            event = json.loads(line.rstrip(",").removesuffix("]}"))
            found.append((round(event["ts"] * 1000), event["args"]))
    return sorted(found, key=lambda pair: pair[1]["sample_seq"])


def first_tokens(out: Path, config: dict[str, Any]) -> dict[int, int]:
    """Read TTFT (ns) by sequence; Server logs it by scheduled instant instead."""
    found = {}
    for line in (out / "mlperf_log_trace.json").read_text().splitlines():
        if line.startswith('{"name":"Token_Latency"'):
            event = json.loads(line.rstrip(",").removesuffix("]}"))
            args = event["args"]
            found[round(event["ts"] * 1000)] = args["issue_delay"] + args["issue_to_done"]
        elif line.startswith('{"name":"Token","cat":"default","ph":"b"'):
            args = json.loads(line.rstrip(",").removesuffix("]}"))["args"]
            found[args["sample_seq"]] = args["complete_ns"]
    return found


def traced(config: dict[str, Any], out: Path) -> Log:
    """Turn LoadGen's trace into our log, instants relative to the start."""
    events = sample_events(out)
    tokens = json.loads((out / "tokens.json").read_text())
    ttft = first_tokens(out, config) if config["token"] else {}
    start = events[0][0]
    scheduled = np.array([stamp - start for stamp, _ in events])
    done = scheduled + np.array([args["complete_ns"] for _, args in events])
    sent = scheduled + np.array([args["issue_start_ns"] for _, args in events])
    first = done
    if config["token"]:
        by = [args["sample_seq"] if config["scenario"] == "Offline" else s for s, args in events]
        first = scheduled + np.array([ttft[key] for key in by])
    counts = np.array([tokens[str(args["sample_seq"])] for _, args in events])
    return Log.made(scheduled, first, done, counts, sent=sent)


def rules_of(config: dict[str, Any]) -> Rules:
    token = config["token"]
    return Rules(
        mode=Mode(config["scenario"]),
        ttft_ns=config["ttft_limit_ns"] if token else None,
        tpot_ns=config["tpot_limit_ns"] if token else None,
        latency_ns=None if token else config["latency_limit_ns"],
        percentile=0.9 if config["scenario"] == "SingleStream" else 0.99,
        min_duration_ns=config["min_duration_ms"] * 1_000_000,
        min_queries=1 if config["scenario"] == "Offline" else config["min_queries"],
        token_latencies=token,
        late_p99_ns=None,
    )


def figures_of(text: str) -> list[str]:
    """Keep what both say in the same words: from the scenario to the settings, spaces aside."""
    part = text[text.index("Scenario :") : text.index("Test Parameters Used")]
    return [re.sub(r"\s+", " ", line).strip() for line in part.splitlines() if line.strip()]
