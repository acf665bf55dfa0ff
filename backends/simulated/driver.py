"""When does the engine's next step end, and who is told?"""

import asyncio
from typing import Protocol

from backends.capacity import StepLaw
from backends.clock import Clock
from backends.simulated.core import EngineCore
from backends.simulated.sequences import EngineLimits, Event, Sequence

_EARLY_S = 0.0005  # a timer may fire this much early (event loops round to milliseconds)


class Listener(Protocol):
    """Whoever follows a sequence."""

    def on_event(self, event: Event) -> None:
        """Take what happened to the sequence; must not raise and not block."""
        ...


class Driver:
    """Runs one engine in real time: a timer per step on an absolute schedule, and no task at
    all.
    """

    def __init__(self, law: StepLaw, limits: EngineLimits, clock: Clock) -> None:
        self.core = EngineCore(law, limits)
        self._clock = clock
        self._listeners: dict[Sequence, Listener] = {}
        self._timer: asyncio.TimerHandle | None = None

    def submit(self, sequence: Sequence, listener: Listener) -> None:
        """Queue a sequence and report its events to the listener; QueueFull where no more may
        wait.
        """
        self.core.admit(sequence, self._clock.monotonic())
        self._listeners[sequence] = listener
        if self._timer is None:
            # The step starts with all that arrive in this turn of the loop.
            self._timer = asyncio.get_running_loop().call_later(0.0, self._tick)

    def abort(self, sequence: Sequence) -> None:
        """End a sequence now; its listener is told, unless it had ended."""
        event = self.core.abort(sequence, self._clock.monotonic())
        listener = self._listeners.pop(sequence, None)
        if event is not None and listener is not None:
            listener.on_event(event)

    def stop(self) -> None:
        """Let no further step happen."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _tick(self) -> None:
        listeners = self._listeners
        for event in self.core.step(self._clock.monotonic() + _EARLY_S):
            if event.finish is None:
                listener = listeners.get(event.sequence)
            else:
                listener = listeners.pop(event.sequence, None)
            if listener is not None:
                listener.on_event(event)
        self._arm()

    def _arm(self) -> None:
        at = self.core.next_at
        if at is None:
            self._timer = None
            return
        delay_s = max(0.0, at - self._clock.monotonic())
        self._timer = asyncio.get_running_loop().call_later(delay_s, self._tick)
