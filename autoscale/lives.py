"""What has this instance seen of a pool's units: when they came up, failed, or fell silent?

Actuators that run units elsewhere know little of that, and an instance that has just begun knows
nothing: until it has watched a unit for long enough itself, it holds no age against it.
"""

import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace

from autoscale.actuate.unit import Unit, UnitState

_log = logging.getLogger(__name__)
# A unit that served and does not answer may come back; after this it is ended and replaced.
LOST_AFTER_S = 60.0
LONGEST_PAUSE_S = 300.0  # between starts that fail one after the other


@dataclass(slots=True)
class Lives:
    """One pool's; times are Unix seconds."""

    retry_at: float = 0.0
    _seen_at: dict[str, float] = field(default_factory=dict)
    _up_at: dict[str, float] = field(default_factory=dict)
    _stuck_since: dict[str, float] = field(default_factory=dict)
    _failures: int = 0  # starts in a row that failed

    def watch(
        self, units: Sequence[Unit], routable: Collection[str], now: float
    ) -> tuple[tuple[Unit, ...], tuple[float, ...]]:
        """Look once: give the units with what is known of them by now, and how long the starts took
        (s) that ended since the last look and that were watched.

        A unit that once got calls has a `served_at`, whatever its actuator remembers. A start's
        `asked_at` is not earlier than our first look at it.
        """
        for gone in self._seen_at.keys() - {unit.name for unit in units}:
            del self._seen_at[gone]
            self._up_at.pop(gone, None)
        took = []
        for unit in units:
            is_new = unit.name not in self._seen_at
            self._seen_at.setdefault(unit.name, now)
            is_up = unit.served_at is not None or any(id_ in routable for id_ in unit.replicas)
            if is_up and unit.name not in self._up_at:
                self._up_at[unit.name] = unit.served_at or now
                self._failures = 0
                if not is_new:
                    took.append(self._up_at[unit.name] - unit.asked_at)
        return tuple(self._known(unit) for unit in units), tuple(took)

    def _known(self, unit: Unit) -> Unit:
        if unit.name in self._up_at:
            return replace(unit, served_at=self._up_at[unit.name])
        return replace(unit, asked_at=max(unit.asked_at, self._seen_at[unit.name]))

    def lost(self, stuck: Sequence[Unit], now: float, *, blind: bool = False) -> tuple[str, ...]:
        """Say which units are to be ended: those that failed, and those that are stuck for long.

        Who is blind cannot tell the second kind.
        """
        for back in self._stuck_since.keys() - {unit.name for unit in stuck}:
            del self._stuck_since[back]
        found = []
        for unit in stuck:
            since = self._stuck_since.setdefault(unit.name, now)
            long = now - since >= LOST_AFTER_S and not blind
            if unit.state is UnitState.FAILED or long:
                found.append(unit.name)
        return tuple(found)

    def failed(self, units: Sequence[Unit], now: float, tick_s: float) -> None:
        """Take in starts that failed: each in a row doubles the pause before the next one."""
        for unit in units:
            _log.warning("unit %s failed: %s", unit.name, unit.why or "no reason is known")
            if unit.served_at is None:
                self._failures += 1
                pause_s = min(tick_s * 2.0**self._failures, LONGEST_PAUSE_S)
                self.retry_at = now + pause_s

    def avoid(self, now: float, least_s: float) -> None:
        """Let no start follow for a while on one that failed, took too long or was refused, since
        units of another kind can be started meanwhile.
        """
        pause_s = min(least_s * 2.0**self._failures, max(least_s, LONGEST_PAUSE_S))
        self._failures += 1
        self.retry_at = max(self.retry_at, now + pause_s)
