"""What would be done? Nothing is: starts and drains happen in memory alone, and are told."""

import logging
from collections.abc import Mapping, Sequence

from autoscale.actuate.unit import Unit, UnitState
from backends.clock import Clock

_log = logging.getLogger(__name__)


class DryActuator:
    """Keeps a list. Units come into service after `cold_start_s`, or what `by_pool` says of theirs,
    and are gone once drained.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        cold_start_s: float = 0.0,
        by_pool: Mapping[str, float] | None = None,
    ) -> None:
        self._clock = clock
        self._cold_start_s = cold_start_s
        self._by_pool = by_pool or {}
        self._units: dict[str, Unit] = {}
        self._number = 0

    async def units(self, pool: str) -> Sequence[Unit]:
        """List the units that would be there."""
        now = self._clock.now()
        found = []
        for unit in self._units.values():
            if unit.pool != pool:
                continue
            up = unit.asked_at + self._by_pool.get(pool, self._cold_start_s)
            state = UnitState.SERVING if now >= up else UnitState.STARTING
            served = up if now >= up else None
            found.append(Unit(unit.name, pool, state, unit.asked_at, served, unit.replicas))
        return found

    async def start(self, pool: str, count: int) -> None:
        """Note them."""
        for _ in range(count):
            self._number += 1
            name = f"{pool}-dry-{self._number}"
            self._units[name] = Unit(name, pool, UnitState.STARTING, self._clock.now())
        _log.info("would start %d units of %s", count, pool)

    async def discard(self, pool: str, names: Sequence[str]) -> None:
        """Forget them."""
        for name in names:
            self._units.pop(name, None)
        _log.info("would end %s", ", ".join(names))

    async def drain(self, pool: str, names: Sequence[str]) -> None:
        """Forget them."""
        await self.discard(pool, names)
