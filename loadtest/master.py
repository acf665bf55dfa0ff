"""How is the schedule shared out among workers, and when is the run over?"""

from __future__ import annotations

import logging
import time
from typing import Any

import gevent

from loadtest.options import RunOptions
from loadtest.roles import LEAD_S, Session, finish
from loadtest.store import Errors, Store

log = logging.getLogger(__name__)


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
        start_at = time.time() + LEAD_S
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
