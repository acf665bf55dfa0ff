"""`sluice replay` on a small recording in each of its formats."""

import csv
import gzip
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autoscale.replay.tally import Ended, worst_window
from autoscale.traces import FORMATS
from autoscale.whatif import main


def _instants() -> list[float]:
    rng = np.random.default_rng(3)
    return sorted(float(each) for each in rng.uniform(0.0, 300.0, 400))


def _csv(path: Path, names: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    with gzip.open(path, "wt", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(names)
        writer.writerows(rows)


def _azure(path: Path) -> None:
    _csv(path, ("t_s", "in_tokens", "out_tokens"), ((t, 200, 50) for t in _instants()))


def _servegen(path: Path) -> None:
    names = ("t_s", "client", "rate_rps", "iat_cv", "in_mean", "out_mean")
    _csv(path, names, ((w, c, 0.4, 1.2, 200, 50) for w in (0, 600) for c in ("0", "1")))


def _gentd26(path: Path) -> None:
    _csv(path, ("t_s", "type", "group"), ((t, "TXT_2_IMG", "G1") for t in _instants()))


def _mooncake(path: Path) -> None:
    rows = [
        {"timestamp": round(t * 1e3), "input_length": 200, "output_length": 50, "hash_ids": [1]}
        for t in _instants()
    ]
    _lines(path, rows)


def _sluice(path: Path) -> None:
    rows = [
        {"arrived_at": 1e9 + t, "input_tokens": 200, "output_tokens": 50, "class": name}
        for t, name in zip(_instants(), ("interactive", "server") * 200, strict=True)
    ]
    _lines(path, rows)


def _lines(path: Path, rows: Sequence[Any]) -> None:
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


WRITERS: dict[str, Callable[[Path], None]] = {
    "servegen": _servegen,
    "azure": _azure,
    "mooncake": _mooncake,
    "gentd26": _gentd26,
    "sluice": _sluice,
}


def _replayed(directory: Path, form: str, *more: str) -> Any:
    trace, out = directory / "trace.gz", directory / "out.json"
    WRITERS[form](trace)
    options = ("--trace", str(trace), "--format", form, "--mean-units", "3", "--out", str(out))
    assert main([*options, "--cold-start", "30", *more]) == 0
    return json.loads(out.read_text(encoding="utf-8"))


def test_each_format_has_a_recording_here() -> None:
    assert set(WRITERS) == set(FORMATS)


@pytest.mark.parametrize("form", ["servegen", "azure", "mooncake", "sluice"])
def test_a_short_recording_is_replayed_call_by_call(tmp_path: Path, form: str) -> None:
    found = _replayed(tmp_path, form, "--to-s", "300", "--seed", "4")
    assert found["level"] == "request"
    assert found["cold_start_s"] == 30.0
    assert found["dropped_streams"] == 0
    assert 0.0 <= found["worst_ten_minutes"] <= 1.0
    assert found["unit_hours"] > 0.0
    offered = sum(each["offered"] for each in found["classes"].values())
    assert offered == found["calls"] > 200
    if form == "sluice":
        assert set(found["classes"]) == {"interactive", "server"}


@pytest.mark.parametrize("form", ["servegen", "azure", "mooncake", "sluice"])
def test_a_long_recording_is_replayed_as_a_fluid(tmp_path: Path, form: str) -> None:
    found = _replayed(tmp_path, form, "--level", "fluid")
    assert found["level"] == "fluid"
    # It is a single window, which is told with fewer digits.
    assert round(found["attainment"], 4) >= found["worst_ten_minutes"] > 0.0
    assert found["over_oracle"] > 0.5


def test_images_are_replayed_as_jobs_with_deadlines(tmp_path: Path) -> None:
    found = _replayed(tmp_path, "gentd26", "--within-s", "1800")
    assert found["level"] == "jobs"
    assert found["attainment"] > 0.99
    assert found["worst_ten_minutes"] <= found["attainment"]
    assert found["unit_hours"] >= found["work_unit_hours"] > 0.0
    late = _replayed(tmp_path, "gentd26", "--within-s", "30")
    assert late["attainment"] < 1.0
    assert late["unit_hours"] < 4 * found["unit_hours"]


def test_a_seed_says_what_is_drawn(tmp_path: Path) -> None:
    one, same, other = (
        _replayed(tmp_path, "servegen", "--to-s", "300", "--seed", seed)["calls"]
        for seed in ("4", "4", "5")
    )
    assert one == same != other


def test_the_worst_window_is_told_by_when_calls_came() -> None:
    ended = [Ended(True, offered_at=1.0), Ended(False, offered_at=700.0), Ended(True, offered_at=9)]
    assert worst_window(ended) == 0.0
    assert worst_window(ended, length_s=1000.0) == pytest.approx(2 / 3)
    assert worst_window([]) == 1.0
