"""The picture of the benchmark: what is drawn, and that something is."""

import json
from pathlib import Path
from typing import Any

import pytest

from autoscale import bench
from autoscale.pareto import Spot, draw, spots_of


def _result(fleet: str, title: str, attainment: float, ratio: float) -> dict[str, Any]:
    return {
        "case": {"fleet": fleet, "how": "step"},
        "setting": {"title": title, "rule": title},
        "cold_start_s": 240.0,
        "attainment": attainment,
        "ratio": ratio,
    }


RESULTS = [
    _result("a", "ours, 99.0%", 0.991, 1.03),
    _result("a", "ours, 99.5%", 0.996, 1.07),
    _result("b", "static peak", 1.0, 3.8),
]


def test_targets_of_a_rule_are_one_line() -> None:
    found = spots_of(RESULTS, 240.0)
    assert [each.family for each in found] == ["ours", "ours", "static peak"]
    assert found[0] == Spot("a", "step", "ours", 0.991, 1.03)
    assert spots_of(RESULTS, 60.0) == []


def test_results_of_an_earlier_run_become_a_picture(tmp_path: Path) -> None:
    results, picture = tmp_path / "results.json", tmp_path / "pareto.png"
    results.write_text(json.dumps(RESULTS), encoding="utf-8")
    assert bench.main(["--results", str(results), "--plot", str(picture)]) == 0
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_without_results_nothing_is_drawn(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nothing to draw"):
        draw([], tmp_path / "never.png")
    with pytest.raises(SystemExit):
        bench.main(["--results", "never.json"])
