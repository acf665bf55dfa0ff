"""How do Locust's processes carry out one run together?

Each generator (a worker, or the only process) builds the plan and says so; the master names the
instant of the start and each one's share; records come back in messages; the last one done ends the
run. A user of Locust's is not needed for any of it.
"""

from __future__ import annotations

from typing import Any

from locust.runners import LocalRunner, MasterRunner, WorkerRunner

from loadtest.master import Master
from loadtest.performers import Alone, Worker
from loadtest.roles import Session

_ATTRIBUTE = "sluice_session"


def of(environment: Any) -> Session:
    """Give the session of an environment."""
    session: Session = getattr(environment, _ATTRIBUTE)
    return session


def attach(environment: Any) -> None:
    """Make the session of an environment and listen to its events."""
    runner = environment.runner
    session: Session
    if isinstance(runner, MasterRunner):
        session = Master(environment)
    elif isinstance(runner, WorkerRunner):
        session = Worker(environment)
    elif isinstance(runner, LocalRunner):
        session = Alone(environment)
    else:
        return
    setattr(environment, _ATTRIBUTE, session)
    environment.events.test_start.add_listener(lambda **_: session.start())
    environment.events.test_stopping.add_listener(lambda **_: session.stop())
    environment.events.quitting.add_listener(lambda **_: session.quitting())
