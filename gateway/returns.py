"""When is a refused call to come back, so that there is room then? A book of promises; pure.

Those who are refused in an overload would all return at the same time if each were told when the
backlog of now ends. So each promise takes a part of the time to come, and keeps it from others.
"""

from collections import OrderedDict
from dataclasses import dataclass, field

SHARE = 0.25  # of what a pool does that may be promised; the rest stays with new calls
EARLY_S, LATE_S = 0.5, 5.0  # how much earlier or later than told a caller may return
HORIZON_S = 120.0
MOST = 20_000


@dataclass(slots=True)
class Returns:
    """Work promised to callers who were refused, by what is asked (`name`); at most 20,000.

    Instants in any seconds that do not go back. `due` holds when each was told to return, its work
    and its tenant; a promise that nobody takes up ends five seconds after its time.
    """

    due: OrderedDict[int, tuple[float, float, str]] = field(default_factory=OrderedDict)
    _free_at: float = 0.0

    def promise(
        self,
        name: int,
        work_s: float,
        does_per_s: float,
        earliest: float,
        now: float,
        *,
        tenant: str = "",
    ) -> float:
        """Give the instant for one caller to return, no sooner than `earliest`.

        Beyond 120 s nothing is kept: it is told as final.
        """
        self._expire(now)
        at = max(earliest, self._free_at)
        if does_per_s <= 0.0 or at - now > HORIZON_S:
            return at
        self._free_at = at + work_s / (SHARE * does_per_s)
        self.due[name] = (at, work_s, tenant)
        return at

    def claim(self, name: int, now: float) -> bool:
        """Whether this caller was told to come now; a promise is kept once."""
        found = self.due.get(name)
        if found is None or not found[0] - EARLY_S <= now <= found[0] + LATE_S:
            return False
        del self.due[name]
        return True

    def work_until(self, instant: float, now: float, *, tenant: str = "") -> float:
        """Give the work that a tenant's callers bring back by an instant.

        Those of others do not stand before it: between tenants the queue takes turns.
        """
        self._expire(now)
        total = 0.0
        for at, work_s, whose in self.due.values():  # in the order of their instants, nearly
            if at > instant:
                break
            total += work_s if whose == tenant else 0.0
        return total

    def _expire(self, now: float) -> None:
        due = self.due
        while due:
            at, _, _ = next(iter(due.values()))
            if at + LATE_S >= now and len(due) <= MOST:
                return
            due.popitem(last=False)
