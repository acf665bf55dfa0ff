"""When is a refused call to come back, so that there is room then? A book of promises; pure.

Those who are refused in an overload would all return at the same time if each were told when the
backlog of now ends. So each promise takes a part of the time to come, and keeps it from others: as
much of it as the tenant's callers have come back for, and only until they are late. What is kept
for callers who never come is refused to those who are there, and each refusal promises more.
"""

from collections import OrderedDict
from dataclasses import dataclass, field

SHARE = 0.25  # of what a pool does that may be promised; the rest stays with new calls
EARLY_S, LATE_S = 0.5, 5.0  # how much earlier or later than told a caller may return
KEPT_S = 1.5  # so long after its time others make room: `Retry-After` is told in whole seconds
LEARN = 0.1  # of what one promise teaches of its tenant
MOST_TENANTS = 1_000
HORIZON_S = 120.0
MOST = 20_000


@dataclass(slots=True)
class Returns:
    """Work promised to callers who were refused, by what is asked (`name`); at most 20,000.

    Instants in any seconds that do not go back. `due` holds when each was told to return, its work
    and its tenant; a promise that nobody takes up ends five seconds after its time. `comes` is the
    share of a tenant's callers who came back lately; 1 where nothing is known of it.
    """

    due: OrderedDict[int, tuple[float, float, str]] = field(default_factory=OrderedDict)
    comes: OrderedDict[str, float] = field(default_factory=OrderedDict)
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
        self._learn(found[2], came=True)
        return True

    def work_until(self, instant: float, now: float, *, tenant: str = "") -> float:
        """Give the work that a tenant's callers will probably bring back by an instant.

        Formula: the work of promises from 1.5 s ago on, times the share of them that comes. Those
        of others do not stand before it: between tenants the queue takes turns.
        """
        self._expire(now)
        total = 0.0
        for at, work_s, whose in self.due.values():  # in the order of their instants, nearly
            if at > instant:
                break
            if whose == tenant and at + KEPT_S >= now:
                total += work_s
        return total * self.comes.get(tenant, 1.0)

    def _expire(self, now: float) -> None:
        due = self.due
        while due:
            at, _, tenant = next(iter(due.values()))
            if at + LATE_S < now:
                self._learn(tenant, came=False)
            elif len(due) <= MOST:
                return
            due.popitem(last=False)

    def _learn(self, tenant: str, *, came: bool) -> None:
        before = self.comes.pop(tenant, 1.0)
        self.comes[tenant] = before + LEARN * (came - before)
        if len(self.comes) > MOST_TENANTS:
            self.comes.popitem(last=False)
