"""What do all processes of a run share, whatever their role?"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import gevent
from gevent.event import Event

from loadtest.live import Live

LEAD_S = 0.5  # from the word of command to the first arrival


class Session(ABC):
    """What all roles share."""

    def __init__(self, environment: Any) -> None:
        self.environment = environment
        self.live = Live()
        self._over = Event()

    @abstractmethod
    def start(self) -> None:
        """Begin a run (Locust's test_start)."""

    @abstractmethod
    def stop(self) -> None:
        """End a run early (Locust's test_stopping)."""

    @abstractmethod
    def quitting(self) -> None:
        """Leave nothing behind."""

    def join(self) -> None:
        """Wait until the run is over."""
        self._over.wait()


def finish(environment: Any, code: int) -> None:
    """End Locust's run: the process when it is headless, else the test alone."""
    headless = getattr(environment.parsed_options, "headless", False)
    environment.process_exit_code = code
    gevent.spawn(environment.runner.quit if headless else environment.runner.stop)
