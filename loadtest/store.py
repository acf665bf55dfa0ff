"""Where does a running test put what it learns, so that nothing is lost when it is stopped?"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from pathlib import Path
from types import TracebackType
from typing import Any

RECORDS = "records.bin"
STATUS = "status.json"


class Store:
    """Appends packed records and replaces the status, in a directory or, without one, nowhere."""

    def __init__(self, out: str) -> None:
        self._dir = Path(out) if out else None
        self._file = None
        self._status: dict[str, Any] = {}
        if self._dir is not None:
            self._dir.mkdir(parents=True, exist_ok=True)
            self._file = (self._dir / RECORDS).open("wb")

    def append(self, packed: bytes) -> None:
        """Add records; they are in the file when this returns."""
        if self._file is not None and packed:
            self._file.write(packed)
            self._file.flush()

    def status(self, **changed: Any) -> None:
        """Change fields of the status and write it whole."""
        self._status |= changed
        if self._dir is not None:
            beside = self._dir / (STATUS + ".new")
            beside.write_text(json.dumps(self._status))
            beside.replace(self._dir / STATUS)

    def close(self) -> None:
        """Close the file; safe to call twice."""
        if self._file is not None:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            self._file = None

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def read_status(out: Path) -> dict[str, Any]:
    """Read the status of a run; empty before the first was written."""
    path = out / STATUS
    return dict(json.loads(path.read_text())) if path.exists() else {}


_TIME = re.compile(r"\b\d+(\.\d+)?(?= ?(s|ms|seconds?)\b)")  # "Try again in 5 s"


class Errors:
    """Counts what went wrong, in the words of who said it, the rarest kinds cut off."""

    def __init__(self, most: int = 200) -> None:
        self._most = most
        self.counts: Counter[str] = Counter()

    def add(self, text: str, times: int = 1) -> None:
        """Count one error: those that differ in a time are one kind, all beyond the bound too."""
        text = _TIME.sub("N", text[:200])
        if text not in self.counts and len(self.counts) >= self._most:
            text = "(others)"
        self.counts[text] += times
