"""What may the next call cost while the store is away? This gateway's share, by its own count.

The same rules as in `lua/limits.lua`, with every limit divided by the number of gateways that were
last seen, and with windows that begin empty. Budgets are not enforced meanwhile, and what is used
meanwhile is not charged to them. So a key may get at most twice its limit in the minute in which
the store goes, its limit per minute after that, and one call more per gateway where that is less.
"""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from gateway.call import Quota
from gateway.limits_store import Answer, Room

WINDOW_S = 60.0


@dataclass(slots=True)
class _Window:
    """Amounts of the last minute, oldest first."""

    amounts: deque[tuple[float, int]] = field(default_factory=deque)
    total: int = 0

    def drop_old(self, now: float) -> None:
        while self.amounts and self.amounts[0][0] <= now - WINDOW_S:
            self.total -= self.amounts.popleft()[1]

    def add(self, amount: int, now: float) -> None:
        self.amounts.append((now, amount))
        self.total += amount

    def after_s(self, amount: int, limit: int, now: float) -> float:
        """Give the seconds until an amount fits."""
        total = self.total
        for at, each in self.amounts:
            total -= each
            if total + amount <= limit:
                return at + WINDOW_S - now
        return WINDOW_S


class LocalLimits:
    """Windows of this process; `now` is monotonic."""

    def __init__(self) -> None:
        self._windows: dict[tuple[str, str], _Window] = {}
        self._running: dict[str, set[str]] = {}

    def reserve(
        self, call_id: str, tokens: int, quotas: Mapping[str, Quota], among: int, now: float
    ) -> Answer:
        """Count a call for all subjects, or for none."""
        planned: list[tuple[_Window, int]] = []
        rooms: dict[str, Room] = {}
        for name, quota in quotas.items():
            for what, limit, amount in _dimensions(quota, tokens):
                share = max(1, limit // among)
                window = self._windows.setdefault((name, what), _Window())
                window.drop_old(now)
                if amount > limit:
                    return Answer("size" if what == "tokens" else what, -1.0, limit)
                if window.total and window.total + amount > share:
                    return Answer(what, window.after_s(amount, share, now), limit)
                planned.append((window, amount))
                left = max(0, share - window.total - amount)
                if what not in rooms or left < rooms[what].remaining:
                    rooms[what] = Room(limit, left, WINDOW_S)
            if quota.concurrency is not None and self._is_full(name, quota.concurrency, among):
                return Answer("concurrency", 1.0, quota.concurrency)
        for window, amount in planned:
            window.add(amount, now)
        for name, quota in quotas.items():
            if quota.concurrency is not None:
                self._running.setdefault(name, set()).add(call_id)
        return Answer(requests=rooms.get("requests"), tokens=rooms.get("tokens"))

    def end(self, call_id: str, quotas: Mapping[str, Quota]) -> None:
        """Note that a call runs no more."""
        for name in quotas:
            running = self._running.get(name)
            if running is not None:
                running.discard(call_id)
                if not running:
                    del self._running[name]

    def _is_full(self, name: str, concurrency: int, among: int) -> bool:
        share = min(concurrency, max(1, concurrency // among))
        return len(self._running.get(name, ())) >= share


def _dimensions(quota: Quota, tokens: int) -> list[tuple[str, int, int]]:
    """Give what is limited per minute: its name, its limit, and what the call takes of it."""
    found = (("requests", quota.requests_per_min, 1), ("tokens", quota.tokens_per_min, tokens))
    return [(what, limit, amount) for what, limit, amount in found if limit is not None]
