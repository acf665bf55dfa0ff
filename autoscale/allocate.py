"""Several pools want the same machines: who gets them? Pure.

The budget of a kind of hardware holds at any moment, starting, draining and stuck units included:
what is still draining is not there to be given away yet. Units go one by one to the pool whose next
unit avoids the most priced misses (marginal analysis).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Claim:
    """A pool's wish: it holds `present` units (all states), wants `start` more; `worth(n)` is what
    the n-th further unit avoids in priced misses per second.
    """

    pool: str
    hardware: str
    present: int
    start: int
    worth: Callable[[int], float]


def granted(claims: Sequence[Claim], budget: Mapping[str, int]) -> dict[str, int]:
    """Say how many units each pool may start now; hardware without a budget has no bound."""
    found = {claim.pool: 0 for claim in claims}
    for kind in {claim.hardware for claim in claims}:
        mine = [claim for claim in claims if claim.hardware == kind]
        if kind not in budget:
            found.update({claim.pool: claim.start for claim in mine})
            continue
        free = budget[kind] - sum(claim.present for claim in mine)
        for _ in range(max(0, free)):
            open_ = [c for c in mine if found[c.pool] < c.start]
            if not open_:
                break
            best = max(open_, key=lambda c: (c.worth(found[c.pool] + 1), c.pool))
            found[best.pool] += 1
    return found


@dataclass(frozen=True, slots=True)
class Backlog:
    """Deferrable work (batches, videos): unit-seconds that are due by an instant."""

    due_at: float
    work_s: float


def deferrable_units(
    backlog: Sequence[Backlog], *, idle_units: float, cold_start_s: float, now: float
) -> float:
    """Give the units that must be there for deferrable work beyond those that idle anyway.

    For each deadline the work due until then must fit: what idle units do until the deadline is
    free; the rest is spread over the time that is left once a further unit is up. Work gives way
    until waiting longer would need more units than it needs now.
    """
    needed, due_work = 0.0, 0.0
    for each in sorted(backlog, key=lambda b: b.due_at):
        due_work += each.work_s
        left_s = max(each.due_at - now, 1.0)
        rest_s = due_work - idle_units * left_s
        if rest_s > 0.0:
            needed = max(needed, rest_s / max(left_s - cold_start_s, 0.1 * left_s))
    return needed


def swap_is_better(*, swap_s: float, cold_start_s: float, drain_s: float) -> bool:
    """Say whether a unit should change its model (weights near) rather than end and start anew."""
    return swap_s + drain_s < cold_start_s
