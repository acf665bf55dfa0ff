"""Locust's entry: `locust -f loadtest/locustfile.py --host URL --model M --scenario server
--target-qps 10`.

Load comes from the schedule, not from the number of users: one user stands for the run. Works with
the web page, --headless, --processes, --master and --worker.
"""

from __future__ import annotations

from typing import Any

from locust import User, events, task

from loadtest import session, web
from loadtest.options import add_run_options


class OpenLoop(User):
    """Waits while the conductor of its process issues the schedule."""

    @task
    def follow(self) -> None:
        """Last as long as the run."""
        session.of(self.environment).join()


@events.init_command_line_parser.add_listener  # type: ignore[untyped-decorator]
def declare(parser: Any) -> None:
    """Add the run's options to Locust's."""
    add_run_options(parser, locust=True)


@events.init.add_listener  # type: ignore[untyped-decorator]
def prepare(environment: Any, **_: Any) -> None:
    """Join the run's machinery to this process's environment."""
    session.attach(environment)
    if environment.web_ui is not None:
        web.extend(environment, session.of(environment).live)
