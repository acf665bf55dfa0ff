"""The rows of the benchmark that run call by call, on a short recording."""

from collections import Counter
from pathlib import Path

import pytest

from autoscale.request_rows import SHARES, burst, mixed, run, table
from autoscale.traces import Arrival, BadTrace

CALLS = [Arrival(float(n) / 4, 200, 50) for n in range(400)]


def _trace(directory: Path, name: str) -> None:
    lines = ["t_s,in_tokens,out_tokens", *(f"{a.at_s},200,50" for a in CALLS)]
    (directory / name).write_text("\n".join(lines) + "\n", encoding="utf-8")


def test_classes_are_mixed_by_their_shares_and_calls_multiplied() -> None:
    found = mixed(CALLS, times=20.0, seed=2)
    assert len(found) == pytest.approx(8000, rel=0.1)
    counts = Counter(each.class_name for each in found)
    for name, share in SHARES.items():
        assert counts[name] / len(found) == pytest.approx(share, abs=0.03)
    times = [each.at_s for each in burst(CALLS, times=5.0, seed=2)]
    assert times == sorted(times)


@pytest.mark.parametrize(
    ("row", "trace"), [("s4", "azure_conv.csv"), ("s6", "azure_code.csv"), ("s7", "azure_conv.csv")]
)
def test_a_row_tells_every_class_and_its_cost(tmp_path: Path, row: str, trace: str) -> None:
    _trace(tmp_path, trace)
    found = run(row, tmp_path, "balanced", 30.0, seconds=60.0)
    assert found.found.dropped == 0
    assert found.over_bound > 0.0
    assert set(found.found.classes) == ({"interactive"} if row == "s6" else set(SHARES))
    assert f"| {row} | balanced, 30 s |" in table([found])


def test_a_fixed_number_is_there_from_the_beginning(tmp_path: Path) -> None:
    _trace(tmp_path, "azure_code.csv")
    found = run("s6", tmp_path, "static:30", 240.0, seconds=60.0).found
    assert found.actions == 0
    assert found.most_by_site == {"here": 30}
    assert found.classes["interactive"].attainment > 0.99
    begun = run("s6", tmp_path, "static:30", 240.0, seconds=60.0, units=1).found
    assert begun.actions == 1  # the others start at the first tick


def test_a_row_without_its_trace_says_so(tmp_path: Path) -> None:
    with pytest.raises(BadTrace, match="azure"):
        run("s6", tmp_path, "balanced", 30.0, seconds=60.0)
