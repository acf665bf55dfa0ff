"""What does the loop ask of those that run replicas?"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol


class UnitState(StrEnum):
    """Where a unit is in its life, as its actuator knows it."""

    STARTING = "starting"  # asked for, not yet serving
    SERVING = "serving"  # it came into service; whether calls go there is the registry's to say
    DRAINING = "draining"  # takes nothing new, finishes what it has
    FAILED = "failed"  # its start or its process ended badly


@dataclass(frozen=True, slots=True)
class Unit:
    """What was started at once; `replicas` are the ids by which the registry knows its replicas.

    `asked_at` is when its start was asked for, `served_at` when it came into service (Unix
    seconds).
    """

    name: str
    pool: str
    state: UnitState
    asked_at: float
    served_at: float | None = None
    replicas: tuple[str, ...] = ()
    why: str = ""


class ActuationFailed(RuntimeError):
    """An action could not be done; the message says why. The loop goes on with the others."""


class Actuator(Protocol):
    """Runs the units of one or more pools. All return soon: what takes long shows in `units`.

    `drain` lets a unit finish: routing stops -> nothing in flight -> SIGTERM -> hard deadline.
    `discard` ends a unit that serves nobody (a pending start, a stuck one) at once.
    """

    async def units(self, pool: str) -> Sequence[Unit]:
        """List what is there, ours alone."""
        ...

    async def start(self, pool: str, count: int) -> None:
        """Ask for more units; raises ActuationFailed."""
        ...

    async def discard(self, pool: str, names: Sequence[str]) -> None:
        """End units that serve nobody; raises ActuationFailed."""
        ...

    async def drain(self, pool: str, names: Sequence[str]) -> None:
        """Let units finish and end; raises ActuationFailed."""
        ...
