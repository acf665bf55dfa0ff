"""How do Locust's processes carry out one run together?

Each generator (a worker, or the only process) builds the plan and says so; the master names the
instant of the start and each one's share; records come back in messages; the last one done ends the
run. A user of Locust's is not needed for any of it.
"""

from __future__ import annotations

import logging
import time
from typing import Any

import gevent
from gevent.event import Event
from locust.runners import LocalRunner, MasterRunner, WorkerRunner

from loadtest import plan as plans
from loadtest.generator import Generator
from loadtest.live import Live
from loadtest.options import RunOptions
from loadtest.records import NEVER, Outcome, Query
from loadtest.store import Errors, Store

_LEAD_S = 0.5  # from the word of command to the first arrival
_FLUSH_S = 0.5
_ATTRIBUTE = "sluice_session"
log = logging.getLogger(__name__)


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


class Session:
    """What all roles share."""

    def __init__(self, environment: Any) -> None:
        self.environment = environment
        self.live = Live()
        self._over = Event()

    def start(self) -> None:
        """Begin a run (Locust's test_start)."""
        raise NotImplementedError

    def stop(self) -> None:
        """End a run early (Locust's test_stopping)."""
        raise NotImplementedError

    def quitting(self) -> None:
        """Leave nothing behind."""

    def join(self) -> None:
        """Wait until the run is over."""
        self._over.wait()


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

    def _hand_over(self, generator: Generator) -> None:
        raise NotImplementedError

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
            lead_ns = int(_LEAD_S * 1e9)
            self._store.status(state="running", start_at=time.time() + _LEAD_S, workers=1)
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


class Master(Session):
    """Shares out the schedule and keeps the records."""

    def __init__(self, environment: Any) -> None:
        super().__init__(environment)
        self._store: Store | None = None
        self._expected: list[str] = []
        self._ready: set[str] = set()
        self._done: dict[str, dict[str, Any]] = {}
        self._errors = Errors()
        register = environment.runner.register_message
        register("sluice_ready", self._is_ready)
        register("sluice_records", self._records)
        register("sluice_done", self._is_done)
        register("sluice_failed", self._failed)

    def start(self) -> None:
        """Wait for every worker that is there now."""
        self._over.clear()
        self._ready, self._done = set(), {}
        self._errors = Errors()
        self.live.clear()
        self._expected = sorted(worker.id for worker in self.environment.runner.clients.all)
        options = RunOptions.of(self.environment.parsed_options)
        self._store = Store(options.out)
        self._store.status(state="waiting", workers=len(self._expected))
        gevent.spawn(self._watch)

    def _is_ready(self, environment: Any, msg: Any, **_: Any) -> None:
        self._ready.add(msg.node_id)
        if self._store is None or self._ready != set(self._expected):
            return
        start_at = time.time() + _LEAD_S
        shards = len(self._expected)
        for shard, worker in enumerate(self._expected):
            go = {"start_at": start_at, "shard": shard, "shards": shards}
            environment.runner.send_message("sluice_go", go, client_id=worker)
        self._store.status(state="running", start_at=start_at)

    def _records(self, environment: Any, msg: Any, **_: Any) -> None:
        for text, times in msg.data["errors"].items():
            self._errors.add(text, times)
        self.live.add(msg.data["packed"])
        if self._store is not None:
            self._store.append(msg.data["packed"])
            self._store.status(errors=dict(self._errors.counts))

    def _is_done(self, environment: Any, msg: Any, **_: Any) -> None:
        self._done[msg.node_id] = msg.data
        if set(self._done) >= set(self._expected):
            interrupted = any(done["interrupted"] for done in self._done.values())
            self._end("interrupted" if interrupted else "finished", "", 0)

    def _failed(self, environment: Any, msg: Any, **_: Any) -> None:
        log.error("worker %s: %s", msg.node_id, msg.data["why"])
        self._end("failed", msg.data["why"], 1)

    def _watch(self) -> None:
        """Notice a worker that is gone: its share of the schedule is then missing."""
        while not self._over.wait(1.0):
            here = {
                worker.id
                for worker in self.environment.runner.clients.all
                if worker.state != "missing"
            }
            lost = set(self._expected) - here - set(self._done)
            if lost:
                self._end("failed", f"lost worker {', '.join(sorted(lost))}", 1)

    def stop(self) -> None:
        """Workers are told by Locust; their last records may still be on the way."""

    def quitting(self) -> None:
        """Say how it ended if nothing else has."""
        if self._store is not None:
            self._close("interrupted", "")

    def _end(self, state: str, why: str, code: int) -> None:
        if self._store is None:
            return
        self._close(state, why)
        finish(self.environment, code)

    def _close(self, state: str, why: str) -> None:
        store, self._store = self._store, None
        if store is not None:
            costs = [done["costs"] for done in self._done.values()]
            store.status(state=state, why=why, costs=costs)
            store.close()
        self._over.set()


def finish(environment: Any, code: int) -> None:
    """End Locust's run: the process when it is headless, else the test alone."""
    headless = getattr(environment.parsed_options, "headless", False)
    environment.process_exit_code = code
    gevent.spawn(environment.runner.quit if headless else environment.runner.stop)
