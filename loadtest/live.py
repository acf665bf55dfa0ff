"""What do the last minutes look like, second by second, while a run goes on?"""

from __future__ import annotations

from collections import deque

import numpy as np

from loadtest import figures
from loadtest.records import NEVER, RECORD, Log

_KEPT_S = 600


class Live:
    """Percentiles of the queries that ended in each second, for the charts of Locust's page."""

    def __init__(self) -> None:
        self._points: deque[dict[str, float | None]] = deque(maxlen=_KEPT_S)
        self._pending: dict[int, list[bytes]] = {}
        self._newest = -1
        # The first use of these array functions loads more of numpy: 60 ms that no query may wait.
        _point(0, np.zeros(3, dtype=RECORD).tobytes())
        np.unique(np.zeros(3, dtype=np.int64))

    def clear(self) -> None:
        """Forget everything: a new run starts."""
        self._points.clear()
        self._pending.clear()
        self._newest = -1

    def add(self, packed: bytes) -> None:
        """Take packed records; seconds older than the newest by two are summed up."""
        rows = np.frombuffer(packed, dtype=RECORD)
        if len(rows) == 0:
            return
        ended = np.where(rows["done"] != NEVER, rows["done"], rows["scheduled"])
        seconds = ended // 1_000_000_000
        for second in np.unique(seconds).tolist():
            chosen = rows[seconds == second].tobytes()
            self._pending.setdefault(second, []).append(chosen)
            self._newest = max(self._newest, second)
        for second in sorted(s for s in self._pending if s < self._newest - 1):
            self._points.append(_point(second, b"".join(self._pending.pop(second))))

    def points(self) -> list[dict[str, float | None]]:
        """Give the seconds so far: queries, failures, p50 and p99 of latency, TTFT, TPOT (ms)."""
        return list(self._points)


def _point(second: int, packed: bytes) -> dict[str, float | None]:
    log = Log(np.frombuffer(packed, dtype=RECORD))
    good = log.where(log.ok)
    point: dict[str, float | None] = {
        "t": float(second),
        "queries": float(len(log)),
        "failures": float(len(log) - len(good)),
    }
    for name, values in (
        ("latency", figures.latency(good)),
        ("ttft", figures.first_token(good)),
        ("tpot", figures.per_token(good)),
        ("lateness", figures.lateness(log)),
    ):
        known = np.sort(values[values < figures.UNANSWERED_NS])
        for label, share in (("p50", 0.5), ("p99", 0.99)):
            value = known[int(len(known) * share)] / 1e6 if len(known) else None
            point[f"{name}_{label}"] = None if value is None else round(float(value), 3)
    return point
