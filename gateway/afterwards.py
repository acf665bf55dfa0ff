"""What is left to do of a call once its caller has the answer? Done when the loop's turn is over.

Metrics, the log line and lessons are a good part of a call, and nobody waits for them. All answers
of a turn go out first; then what follows them is done in a row, from the processor's caches.
"""

import asyncio
from collections.abc import Callable, Iterable

import structlog
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

Work = Callable[[], None]
Later = Callable[[Work], None]


def at_once(work: Work) -> None:
    """Do it now."""
    work()


class Afterwards(Collector):
    """Work put off to the next turn of the loop. Whoever reads what it makes lets it `catch_up`.

    A collector of metrics for that reason alone: it is asked before those that it counts in.
    """

    def __init__(self) -> None:
        self._work: list[Work] = []

    def __call__(self, work: Work) -> None:
        """Take in work; what fails is logged, and stops no other."""
        if not self._work:
            asyncio.get_running_loop().call_soon(self.catch_up)
        self._work.append(work)

    def catch_up(self) -> None:
        """Do all that is left, in the order in which it came."""
        work, self._work = self._work, []
        for each in work:
            try:
                each()
            except Exception:
                structlog.get_logger("sluice").exception("bug", of="what follows a call")

    def describe(self) -> Iterable[Metric]:
        """Prometheus: there is nothing of its own."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """Prometheus: who reads metrics reads those of all calls that have ended."""
        self.catch_up()
        return ()
