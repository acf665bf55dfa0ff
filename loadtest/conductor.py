"""How is a schedule kept to: every query sent at its instant, whatever the others do?

One conductor per generator process walks its share of the schedule. It never waits for an answer
(but in the closed loop of SingleStream); answers come back as callbacks of the client.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

import gevent
from gevent.event import Event

from loadtest.client import Client
from loadtest.exchange import Exchange
from loadtest.plan import Plan
from loadtest.records import Query

Finished = Callable[[Query, str], None]


class Conductor:
    """Issues `positions` of the plan's schedule from `started_ns` (monotonic) on.

    `finished(query, error)` is called for each query from the hub; it must not block.
    """

    def __init__(
        self,
        plan: Plan,
        positions: Iterable[int],
        client: Client,
        exchange: Exchange,
        finished: Finished,
    ) -> None:
        self._plan = plan
        self._positions = positions
        self._client = client
        self._exchange = exchange
        self._finished = finished
        self._groups = {name: code for code, name in enumerate(plan.dataset.groups)}
        self._tenants = {name: code for code, name in enumerate(plan.dataset.tenants)}
        self._stopping = False
        self._changed = Event()
        self._started_ns = 0
        self.in_flight = 0
        self.issued = 0

    def run(self, started_ns: int) -> None:
        """Issue everything and wait until all is answered; returns early after `stop`."""
        self._started_ns = started_ns
        sweeper = gevent.spawn(self._sweep)
        try:
            if self._plan.schedule.closed_loop:
                self._run_closed()
            else:
                self._run_open()
            while self.in_flight and not self._stopping:
                self._wait_change()
        finally:
            sweeper.kill()
            self._client.close()

    def stop(self) -> None:
        """Issue nothing more and give up what is in flight."""
        self._stopping = True
        self._changed.set()

    def _run_open(self) -> None:
        arrivals = self._plan.schedule.arrivals_ns
        most = self._plan.scenario.concurrency or (1 << 30)
        for position in self._positions:
            scheduled_ns = int(arrivals[position])
            self._until(self._started_ns + scheduled_ns)
            while self.in_flight >= most and not self._stopping:
                self._wait_change()
            if self._stopping:
                return
            self._issue(position, scheduled_ns)

    def _run_closed(self) -> None:
        """Issue one after the other; as LoadGen's, the last is the first that starts at or after
        the minimum duration.
        """
        rules = self._plan.rules
        self._until(self._started_ns)
        for position in self._positions:
            now_ns = time.monotonic_ns() - self._started_ns
            self._issue(position, now_ns)
            while self.in_flight and not self._stopping:
                self._wait_change()
            enough = self.issued >= rules.min_queries and now_ns >= rules.min_duration_ns
            if self._stopping or enough:
                return

    def _issue(self, position: int, scheduled_ns: int) -> None:
        index = int(self._plan.schedule.samples[position])
        sample = self._plan.dataset.sample(index)
        query = Query(position, index, scheduled_ns)
        query.group = self._groups.get(sample.group, 0)
        query.tenant = self._tenants.get(sample.tenant, 0)
        self.in_flight += 1
        self.issued += 1
        query.sent_ns = time.monotonic_ns() - self._started_ns
        self._exchange.begin(query, sample, self._started_ns, self._end)

    def _end(self, query: Query, error: str) -> None:
        self.in_flight -= 1
        self._finished(query, error)
        self._changed.set()

    def _until(self, due_ns: int) -> None:
        """Sleep to within the timer's resolution of an instant, then yield until it has come."""
        while not self._stopping:
            left_ns = due_ns - time.monotonic_ns()
            if left_ns <= 0:
                return
            gevent.sleep(max(0.0, left_ns / 1e9 - 0.001))

    def _wait_change(self) -> None:
        self._changed.clear()
        self._changed.wait(1.0)

    def _sweep(self) -> None:
        while True:
            gevent.sleep(0.5)
            self._client.sweep(time.monotonic_ns())
