"""`sluice replay` with the classes of a gateway's file."""

import json
from pathlib import Path

import pytest

from gateway.cli.failure import CommandFailed
from gateway.cli.replay import main


def _replayed(directory: Path, *more: str) -> dict[str, int]:
    trace, out = directory / "azure.csv", directory / "out.json"
    rows = [f"{second},800,100\n" * 10 for second in range(60)]
    trace.write_text("t_s,in_tokens,out_tokens\n" + "".join(rows))
    options = ("--trace", str(trace), "--format", "azure", "--mean-units", "4", "--out", str(out))
    assert main([*options, "--policy", "static:2", "--to-s", "60", *more]) == 0
    found: dict[str, int] = json.loads(out.read_text(encoding="utf-8"))["classes"]["interactive"]
    return found


def test_late_calls_are_served_where_the_gateways_file_says_so(tmp_path: Path) -> None:
    refusing = _replayed(tmp_path)
    assert refusing["refused"] > 0
    assert refusing["late"] == 0
    config = tmp_path / "sluice.yaml"
    config.write_text("classes: {interactive: {when_late: serve, patience_s: 600}}")
    serving = _replayed(tmp_path, "--config", str(config))
    assert serving["refused"] == 0
    assert serving["late"] > 0


def test_a_file_that_cannot_be_meant_is_told(tmp_path: Path) -> None:
    config = tmp_path / "sluice.yaml"
    config.write_text("classes: {interactive: {when_late: soon}}")
    with pytest.raises(CommandFailed, match="allowed: 'refuse' or 'serve'"):
        _replayed(tmp_path, "--config", str(config))
