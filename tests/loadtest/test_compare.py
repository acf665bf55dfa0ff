"""Are two runs said to agree exactly when they do?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from loadtest.cli import main


def summary(**changed: Any) -> dict[str, Any]:
    page: dict[str, Any] = {
        "format": 1,
        "verdict": "VALID",
        "headline": {"metric": "tokens_per_second", "value": 1000.0, "unit": "tokens/s"},
        "scenario": {"name": "server", "model": "llama2-70b"},
        "limits": {"ttft_ms": 2000},
        "dataset": {"sha256": "d"},
        "schedule": {"sha256": "s"},
        "ttft_ms": {"p99": 900.0},
        "tpot_ms": None,
        "latency_ms": {"p99": 90_000.0},
    }
    return page | changed


def rate(value: float) -> dict[str, Any]:
    return {"metric": "tokens_per_second", "value": value, "unit": "tokens/s"}


def write(path: Path, page: dict[str, Any]) -> str:
    path.mkdir(exist_ok=True)
    (path / "summary.json").write_text(json.dumps(page))
    return str(path)


@pytest.mark.parametrize(
    ("second", "code", "told"),
    [
        (summary(), 0, "agree"),
        (summary(headline=rate(1039.0)), 0, "agree"),
        (summary(headline=rate(1041.0)), 1, "differs by +4.10%"),
        (summary(headline=rate(959.0)), 1, "differs by -4.10%"),
        (summary(verdict="INVALID"), 1, "verdicts differ"),
        (summary(limits={"ttft_ms": 450}), 2, "not comparable"),
        (summary(scenario={"name": "interactive", "model": "llama2-70b"}), 2, "not comparable"),
        (summary(dataset={"sha256": "e"}), 0, "not the same dataset"),
    ],
)
def test_two_runs_agree_within_a_tolerance(
    second: dict[str, Any], code: int, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, other = write(tmp_path / "a", summary()), write(tmp_path / "b", second)
    assert main(["compare", one, other]) == code
    assert told in capsys.readouterr().out


def test_what_is_no_run_cannot_be_compared(tmp_path: Path) -> None:
    one = write(tmp_path / "a", summary())
    assert main(["compare", one, str(tmp_path / "none")]) == 2
    assert main(["compare", one, write(tmp_path / "b", {"format": 7})]) == 2
