"""What is sent with each query: the operator's own files, a recorded trace, or a synthetic stand-
in?
"""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loadtest import lengths
from loadtest.scenario import Scenario
from loadtest.traces import Recorded

# Columns in which MLPerf's files and others keep a prompt, best first.
_PROMPTS = ("messages", "text_input", "prompt", "input", "question", "text")
_LENGTHS = ("output_tokens", "max_tokens", "tok_output_length", "output_length")
_TEXT = (
    "the time of a day when light and water move over the old stone road to town where people "
    "work and talk about what they made and how long it took to do it well with few hands"
)
_BLOCK_TOKENS = 512
_WORDS = tuple(_TEXT.split())


class DatasetError(ValueError):
    """A dataset that cannot be read."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One input. `prompt` is text, or token ids; `exact_tokens`: how many tokens the answer must
    have, if known.
    """

    prompt: str | Sequence[int] | Sequence[Mapping[str, Any]]
    max_tokens: int | None = None
    exact_tokens: int | None = None
    group: str = ""
    tenant: str = ""


@dataclass(frozen=True, slots=True)
class Dataset:
    """A list of samples made on demand.

    `synthetic` marks a stand-in for the real dataset. `groups` and `tenants`: the classes and
    tenants that samples name, in the order of their codes in records; empty when none does.
    """

    name: str
    size: int
    sample: Callable[[int], Sample]
    synthetic: bool
    digest: str
    note: str = ""
    groups: tuple[str, ...] = ()
    tenants: tuple[str, ...] = ()


def stand_in(scenario: Scenario, size: int | None = None) -> Dataset:
    """Make the synthetic dataset of a scenario, the same for everybody."""
    count = scenario.dataset_size if size is None else size
    spec = scenario.stand_in
    if not spec:
        raise DatasetError(f"{scenario.model} has no stand-in; give a dataset file")
    prompts = lengths.draw(spec["prompt_tokens"], 20260401, count).tolist()
    answers = None
    if "output_tokens" in spec:
        answers = lengths.draw(spec["output_tokens"], 20260402, count).tolist()

    def sample(index: int) -> Sample:
        exact = None if answers is None else answers[index]
        return Sample(text(index, prompts[index]), max_tokens=exact, exact_tokens=exact)

    digest = hashlib.sha256(json.dumps([prompts, answers]).encode()).hexdigest()
    note = "stand-in with the published length statistics, not MLPerf's dataset"
    return Dataset(f"synthetic {scenario.dataset_name}", count, sample, True, digest, note)


def text(index: int, tokens: int) -> str:
    """Write a prompt of about `tokens` tokens, one short word each, unlike every other from its
    first word on.
    """
    head = f"Sample {index}:".split()
    body = [_WORDS[(index * 7919 + i * (1 + index % 5)) % len(_WORDS)] for i in range(tokens - 4)]
    return " ".join(head + body)


def recorded(rows: Sequence[Recorded], name: str, digest: str) -> Dataset:
    """Make the dataset of a trace: row i is sample i."""

    def sample(index: int) -> Sample:
        row = rows[index]
        exact = max(1, row.answered)
        prompt = text_of_blocks(row.blocks, row.asked) if row.blocks else text(index, row.asked)
        return Sample(prompt, exact, exact, row.group, row.tenant)

    note = "lengths from the trace, text synthetic"
    groups = named(row.group for row in rows)
    tenants = named(row.tenant for row in rows)
    return Dataset(name, len(rows), sample, True, digest, note, groups, tenants)


def text_of_blocks(blocks: Sequence[int], tokens: int) -> str:
    """Write a prompt of blocks: equal ids give equal text, so that prefixes are shared."""
    # Two more than a block has: the head of a text stands for four tokens in two words.
    words = " ".join(text(block, _BLOCK_TOKENS + 2) for block in blocks).split(" ")
    return " ".join(words[: max(1, tokens)])


def read(path: Path, *, trust_pickle: bool = False, size: int | None = None) -> Dataset:
    """Read the operator's file: .jsonl(.gz), .json(.gz), .txt (a prompt a line), .parquet,
    .pkl(.gz).

    Raises DatasetError. A pickle runs code when it is read, so it needs `trust_pickle`.
    """
    if not path.exists():
        raise DatasetError(f"no dataset file {path}")
    rows = _rows(path, trust_pickle=trust_pickle)
    samples = [_sample(row, number) for number, row in enumerate(rows, 1)][:size]
    if not samples:
        raise DatasetError(f"{path} has no samples")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return Dataset(
        path.name,
        len(samples),
        samples.__getitem__,
        False,
        digest,
        groups=named(sample.group for sample in samples),
        tenants=named(sample.tenant for sample in samples),
    )


def named(names: Iterable[str]) -> tuple[str, ...]:
    """List the names that occur, sorted; none when only the empty one does."""
    found = tuple(sorted(set(names)))
    return () if found == ("",) else found


def _rows(path: Path, *, trust_pickle: bool) -> list[Any]:
    name = path.name.removesuffix(".gz")
    suffix = name[name.rfind(".") :]
    if suffix == ".parquet":
        return _parquet(path)
    if suffix == ".pkl":
        return _pickle(path, trusted=trust_pickle)
    raw = path.read_bytes()
    whole = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode("utf-8")
    lines = [line for line in whole.splitlines() if line.strip()]
    match suffix:
        case ".txt":
            return [{"prompt": line} for line in lines]
        case ".jsonl":
            return [json.loads(line) for line in lines]
        case ".json":
            page = json.loads(whole)
            return list(page["data"] if isinstance(page, dict) else page)
    raise DatasetError(f"cannot read {path.name}: give .jsonl, .json, .txt, .parquet or .pkl")


def _parquet(path: Path) -> list[Any]:
    try:
        from pyarrow import parquet  # type: ignore[import-not-found]
    except ImportError:
        raise DatasetError("reading .parquet needs pyarrow: pip install pyarrow") from None
    return list(parquet.read_table(path).to_pylist())


def _pickle(path: Path, *, trusted: bool) -> list[Any]:
    if not trusted:
        raise DatasetError(f"{path.name} is a pickle and runs code when read: add --trust-pickle")
    try:
        import pandas as pd  # type: ignore[import-untyped]
    except ImportError:
        raise DatasetError("reading .pkl needs pandas: pip install pandas") from None
    return list(pd.read_pickle(path).to_dict("records"))  # noqa: S301  the operator said so


def _sample(row: Any, number: int) -> Sample:
    if isinstance(row, str):
        row = {"prompt": row}
    if not isinstance(row, Mapping):
        raise DatasetError(f"sample {number} is no object")
    prompt = next((row[name] for name in _PROMPTS if row.get(name)), None)
    if prompt is None and row.get("tok_input") is not None:
        prompt = [int(token) for token in row["tok_input"]]
    if prompt is None:
        raise DatasetError(f"sample {number} has none of {', '.join(_PROMPTS)}")
    most = next((int(row[name]) for name in _LENGTHS if row.get(name)), None)
    return Sample(
        prompt if isinstance(prompt, str) else list(prompt),
        max_tokens=int(row["max_tokens"]) if row.get("max_tokens") else None,
        exact_tokens=most if row.get("exact") else None,
        group=str(row.get("class", "")),
        tenant=str(row.get("tenant", "")),
    )
