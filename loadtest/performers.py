"""How does a process that generates load carry out its share, alone or as one of several?"""

from __future__ import annotations

import logging
import time
from abc import abstractmethod
from typing import Any

import gevent

from loadtest import plan as plans
from loadtest.generator import Generator
from loadtest.options import RunOptions
from loadtest.records import NEVER, Outcome, Query
from loadtest.roles import LEAD_S, Session, finish
from loadtest.store import Store

_FLUSH_S = 0.5
log = logging.getLogger(__name__)


class Performer(Session):
    """A process that generates load."""

    def __init__(self, environment: Any) -> None:
        super().__init__(environment)
        self._generator: Generator | None = None
        self._name = ""

    def _build(self) -> Generator:
        options = RunOptions.of(self.environment.parsed_options)
        host = self.environment.host
        if not host:
            raise ValueError("--host names the endpoint, for instance http://localhost:8080/v1")
        plan = plans.make(options)
        self._name = f"{plan.scenario.model} {plan.scenario.name}"
        generator = Generator(plan, host, self._seen)
        generator.warm()
        return generator

    def _seen(self, query: Query, error: str) -> None:
        """Show a finished query in Locust's statistics; response time counts from the schedule."""
        stats = self.environment.stats
        ok = query.outcome is Outcome.OK
        end_ns = query.done_ns if query.done_ns != NEVER else query.sent_ns
        self.environment.events.request.fire(
            request_type="QUERY",
            name=self._name,
            response_time=(end_ns - query.scheduled_ns) / 1e6,
            response_length=query.tokens,
            exception=None if ok else RuntimeError(f"{query.outcome.name.lower()}: {error}"),
            context={},
        )
        if ok and query.first_ns != NEVER:
            stats.get("TTFT", "").log((query.first_ns - query.scheduled_ns) / 1e6, 0)
            if query.tokens > 1:
                per_token = (query.done_ns - query.first_ns) / (query.tokens - 1)
                stats.get("TPOT", "").log(per_token / 1e6, 0)

    def stop(self) -> None:
        """Give up what is in flight and hand over every record."""
        generator, self._generator = self._generator, None
        if generator is not None:
            generator.stop()
            self._hand_over(generator)
        self._over.set()

    def quitting(self) -> None:
        """Leave nothing behind: what is written down is closed where the run ends."""

    @abstractmethod
    def _hand_over(self, generator: Generator) -> None:
        """Give the finished queries to whoever keeps the records."""

    def _perform(self, generator: Generator, shard: int, shards: int, started_ns: int) -> None:
        flusher = gevent.spawn(self._flush, generator)
        try:
            generator.run(shard, shards, started_ns)
        finally:
            flusher.kill()
            self._hand_over(generator)
            self._generator = None

    def _flush(self, generator: Generator) -> None:
        while True:
            gevent.sleep(_FLUSH_S)
            self._hand_over(generator)


class Alone(Performer):
    """The only process: generator and keeper of the records."""

    def __init__(self, environment: Any) -> None:
        super().__init__(environment)
        self._store: Store | None = None

    def start(self) -> None:
        """Run in a greenlet; Locust's start must return."""
        self._over.clear()
        self.live.clear()
        gevent.spawn(self._run).link_exception(self._crashed)

    def _crashed(self, greenlet: gevent.Greenlet) -> None:
        """Say that our own code failed, and end the run rather than wait forever."""
        if self._store is not None:
            self._store.status(state="failed", why=f"generator failed: {greenlet.exception!r}")
        self._end(1)

    def _run(self) -> None:
        options = RunOptions.of(self.environment.parsed_options)
        with Store(options.out) as self._store:
            try:
                self._generator = generator = self._build()
            except (ValueError, OSError) as error:
                log.error("%s", error)
                self._store.status(state="failed", why=str(error))
                self._end(1)
                return
            lead_ns = int(LEAD_S * 1e9)
            self._store.status(state="running", start_at=time.time() + LEAD_S, workers=1)
            self._perform(generator, 0, 1, time.monotonic_ns() + lead_ns)
            state = "interrupted" if self._over.is_set() else "finished"
            self._store.status(state=state, costs=[generator.costs()])
        self._end(0)

    def _hand_over(self, generator: Generator) -> None:
        packed = generator.take()
        self.live.add(packed)
        if self._store is not None:
            self._store.append(packed)
            self._store.status(errors=dict(generator.errors.counts))

    def _end(self, code: int) -> None:
        self._over.set()
        finish(self.environment, code)


class Worker(Performer):
    """One of several generators; the master keeps the records."""

    def __init__(self, environment: Any) -> None:
        super().__init__(environment)
        self._go: gevent.event.AsyncResult[dict[str, Any]] = gevent.event.AsyncResult()
        environment.runner.register_message("sluice_go", self._told)

    def _told(self, environment: Any, msg: Any, **_: Any) -> None:
        self._go.set(msg.data)

    def start(self) -> None:
        """Prepare, report, and wait for the word."""
        self._over.clear()
        self._go = gevent.event.AsyncResult()
        gevent.spawn(self._run).link_exception(self._crashed)

    def _crashed(self, greenlet: gevent.Greenlet) -> None:
        why = f"generator failed: {greenlet.exception!r}"
        self.environment.runner.send_message("sluice_failed", {"why": why})

    def _run(self) -> None:
        send = self.environment.runner.send_message
        try:
            self._generator = generator = self._build()
        except (ValueError, OSError) as error:
            send("sluice_failed", {"why": str(error)})
            return
        send("sluice_ready", {})
        go = self._go.get()
        # Shares start together as far as the machines' clocks agree; each share is timed by its own
        # monotonic clock.
        started_ns = time.monotonic_ns() + int(go["start_at"] * 1e9) - time.time_ns()
        self._perform(generator, go["shard"], go["shards"], started_ns)
        interrupted = self._over.is_set()
        send("sluice_done", {"costs": generator.costs(), "interrupted": interrupted})
        self._over.set()

    def _hand_over(self, generator: Generator) -> None:
        packed = generator.take()
        errors = dict(generator.errors.counts)
        generator.errors.counts.clear()
        if packed:
            message = {"packed": packed, "errors": errors}
            self.environment.runner.send_message("sluice_records", message)
