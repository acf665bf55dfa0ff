"""What one unbounded cache could skip of a trace, and what a fleet does."""

from pathlib import Path

import orjson
import pytest

from bench.slo_trace import BLOCK_TOKENS, prefix_reuse, read, unbounded


def trace(path: Path, calls: int = 60) -> Path:
    """Write calls of six conversations that grow by a block each time."""
    lines = []
    for number in range(calls):
        who, turn = number % 6, number // 6
        ids = [1000 * who + i for i in range(4 + turn)]
        row = {
            "timestamp": 500 * number,
            "input_length": BLOCK_TOKENS * len(ids) + 7,
            "output_length": 20,
            "hash_ids": ids,
        }
        lines.append(orjson.dumps(row))
    path.write_bytes(b"\n".join(lines) + b"\n")
    return path


def test_an_unbounded_cache_skips_every_block_that_came_before(tmp_path: Path) -> None:
    calls = read(trace(tmp_path / "t.jsonl"), 1e9)
    assert unbounded(calls) == BLOCK_TOKENS * sum(3 + turn for turn in range(1, 10)) * 6


def test_a_line_without_a_field_is_told_by_its_number(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_bytes(b'{"timestamp": 1, "hash_ids": []}\n')
    with pytest.raises(ValueError, match="line 1: no 'input_length'"):
        read(path, 10.0)


def test_conversations_come_back_to_where_their_prefix_is(tmp_path: Path) -> None:
    path = trace(tmp_path / "t.jsonl")
    own, plain = (prefix_reuse(path, name, 60.0) for name in ("promised", "round_robin"))
    assert own.skipped >= 0.8
    assert own.skipped > plain.skipped
    assert not own.refused
