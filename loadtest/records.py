"""What is known of each query of a run, and how is it kept?

One fixed-size record a query: workers pack it, the master appends it to a file, the verdict reads
columns.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

NEVER = -1  # an instant that did not come


class Outcome(IntEnum):
    """How a query ended."""

    OK = 0
    REFUSED = 1  # 429 or 503: the server said no in time
    FAILED = 2  # any other status but 200, or an error frame inside the stream
    SHORT = 3  # the stream ended before its end was announced
    ALTERED = (
        4  # counts that cannot be: more chunks than tokens, or not the tokens that were asked for
    )
    BROKEN = 5  # no connection, or lost before the first byte
    TIMED_OUT = 6
    UNFINISHED = 7  # the run was interrupted first


# Instants are nanoseconds from the start of the run; -1 is never.
RECORD = np.dtype(
    [
        ("position", "<i8"),
        ("sample", "<i4"),
        ("scheduled", "<i8"),
        ("sent", "<i8"),
        ("first", "<i8"),
        ("done", "<i8"),
        ("tokens", "<i4"),
        ("chunks", "<i4"),
        ("prompt_tokens", "<i4"),
        ("status", "<i2"),
        ("outcome", "u1"),
        ("group", "u1"),
        ("tenant", "<u2"),
        ("replica", "<u2"),
    ]
)
_PACK = struct.Struct("<qiqqqqiiihBBHH")
assert _PACK.size == RECORD.itemsize  # noqa: S101  two spellings of one layout


@dataclass(slots=True)
class Query:
    """One query while it runs (mutable: the client fills it in)."""

    position: int
    sample: int
    scheduled_ns: int
    sent_ns: int = NEVER
    first_ns: int = NEVER
    done_ns: int = NEVER
    tokens: int = 0
    chunks: int = 0
    prompt_tokens: int = 0
    status: int = 0
    outcome: Outcome = Outcome.UNFINISHED
    group: int = 0
    tenant: int = 0
    replica: int = 0

    def pack(self) -> bytes:
        """Give the record's bytes, RECORD.itemsize long."""
        return _PACK.pack(
            self.position,
            self.sample,
            self.scheduled_ns,
            self.sent_ns,
            self.first_ns,
            self.done_ns,
            self.tokens,
            self.chunks,
            self.prompt_tokens,
            self.status,
            self.outcome,
            self.group,
            self.tenant,
            self.replica,
        )


Column = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Log:
    """The records of a run in schedule order, as columns of shape (n,)."""

    rows: NDArray[np.void]

    @classmethod
    def of(cls, rows: NDArray[np.void]) -> Log:
        """Order rows by their position in the schedule, later duplicates dropped."""
        _, first = np.unique(rows["position"], return_index=True)
        return cls(rows[first])

    @classmethod
    def from_bytes(cls, packed: bytes) -> Log:
        """Read packed records; a torn last one is left out."""
        whole = len(packed) // RECORD.itemsize * RECORD.itemsize
        return cls.of(np.frombuffer(packed[:whole], dtype=RECORD))

    @classmethod
    def read(cls, path: Path) -> Log:
        """Read a file of packed records; an absent file is an empty log."""
        return cls.from_bytes(path.read_bytes() if path.exists() else b"")

    @classmethod
    def made(
        cls,
        scheduled: Column,
        first: Column,
        done: Column,
        tokens: Column,
        *,
        sent: Column | None = None,
    ) -> Log:
        """Build a log of completed queries from columns of instants (ns) and token counts."""
        rows = np.zeros(len(scheduled), dtype=RECORD)
        rows["position"] = np.arange(len(scheduled))
        rows["scheduled"] = scheduled
        rows["sent"] = scheduled if sent is None else sent
        rows["first"] = first
        rows["done"] = done
        rows["tokens"] = tokens
        rows["status"] = 200
        return cls(rows)

    def __len__(self) -> int:
        return len(self.rows)

    def column(self, name: str) -> Column:
        """Give one field of all records as int64."""
        return self.rows[name].astype(np.int64)

    @property
    def ok(self) -> NDArray[np.bool_]:
        """Tell which queries were answered in full."""
        return np.asarray(self.rows["outcome"] == Outcome.OK)

    def where(self, chosen: NDArray[np.bool_]) -> Log:
        """Keep the chosen queries."""
        return Log(self.rows[chosen])
