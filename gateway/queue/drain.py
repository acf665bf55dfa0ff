"""How fast does a queue drain? Told from totals that only grow."""

from collections import deque

DRAIN_WINDOW_S = 10.0


class Drain:
    """What has ended per second in the last ten seconds, out of totals that only grow."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int, int]] = deque()

    def note(self, released: int, work_us: int, now: float) -> None:
        """Take in the totals at `now`."""
        seen = self._seen
        if seen and released < seen[-1][1]:  # the store was emptied: count afresh
            seen.clear()
        seen.append((now, released, work_us))
        while len(seen) > 2 and seen[1][0] <= now - DRAIN_WINDOW_S:
            seen.popleft()

    def per_s(self, now: float) -> tuple[float, float]:
        """Give calls per second, and seconds of work per second."""
        seen, since = self._seen, now - DRAIN_WINDOW_S
        while len(seen) > 1 and seen[1][0] <= since:
            seen.popleft()
        if not seen:
            return 0.0, 0.0
        first, last = seen[0], seen[-1]
        return (last[1] - first[1]) / DRAIN_WINDOW_S, (last[2] - first[2]) / 1e6 / DRAIN_WINDOW_S
