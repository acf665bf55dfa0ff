"""What does one generator do, from options and a share of the schedule to packed records?"""

from __future__ import annotations

import gc
import resource
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import gevent
import yaml
from gevent.event import AsyncResult

from loadtest.client import Client
from loadtest.conductor import Conductor
from loadtest.exchange import Exchange, Streaming, VideoJob
from loadtest.options import RunOptions
from loadtest.payload import Requests
from loadtest.plan import Plan
from loadtest.records import Query
from loadtest.store import Errors
from loadtest.target import Target

_WARM_UP_S = 120.0
Seen = Callable[[Query, str], None]


class Generator:
    """One process's share of a run.

    `seen(query, error)` is called for each finished query, from the loop's hub; it must not block.
    """

    def __init__(self, plan: Plan, base_url: str, seen: Seen) -> None:
        options = plan.options
        self._plan = plan
        self._seen = seen
        self._packed: list[bytes] = []
        self._conductor: Conductor | None = None
        self.errors = Errors()
        self.chunks = 0
        self._begun_cpu_s = 0.0
        self._target = Target(base_url, verify=not options.insecure)
        self._client = Client(self._target)
        self._exchange = exchange_for(plan, self._client, self._target)

    def warm(self) -> None:
        """Send a few queries that do not count, open connections, settle memory."""
        raise_file_limit()
        options = self._plan.options
        if not self._plan.schedule.closed_loop:
            self._warm_up(min(options.warm_up, self._plan.dataset.size))
        if options.warm_connections:
            self._client.warm(options.warm_connections)
        gc.collect()
        gc.freeze()
        gc.set_threshold(2_000, 10, 100)

    def run(self, shard: int, shards: int, started_ns: int) -> None:
        """Carry out the share `shard` of `shards` from `started_ns` (monotonic) on."""
        self._begun_cpu_s = time.process_time()
        if self._plan.schedule.closed_loop:
            positions = self._plan.schedule.shard(0, 1) if shard == 0 else ()
        else:
            positions = self._plan.schedule.shard(shard, shards)
        self._conductor = Conductor(
            self._plan, positions, self._client, self._exchange, self._finished
        )
        self._conductor.run(started_ns)

    def _warm_up(self, count: int) -> None:
        """Send queries, all at once, and wait for them, whatever becomes of them."""
        jobs = [gevent.spawn(self._warm_one, index) for index in range(count)]
        gevent.joinall(jobs, timeout=_WARM_UP_S)
        gevent.killall(jobs)

    def _warm_one(self, index: int) -> None:
        ended = AsyncResult()
        sample = self._plan.dataset.sample(index)
        self._exchange.begin(Query(-1, index, 0), sample, 0, partial(_note, ended))
        ended.get()

    def stop(self) -> None:
        """Give up: what is in flight is recorded as unfinished before this returns."""
        if self._conductor is not None:
            self._conductor.stop()
        self._client.close()

    def take(self) -> bytes:
        """Give the records since the last call."""
        packed, self._packed = b"".join(self._packed), []
        return packed

    def costs(self) -> dict[str, Any]:
        """Tell what this process spent on the run: CPU seconds, chunks read, connections opened."""
        return {
            "cpu_s": time.process_time() - self._begun_cpu_s,
            "chunks": self.chunks,
            "connects": self._client.connects,
            "queries": self._conductor.issued if self._conductor else 0,
        }

    def _finished(self, query: Query, error: str) -> None:
        self._packed.append(query.pack())
        self.chunks += query.chunks
        if error:
            self.errors.add(f"{query.outcome.name.lower()}: {error}")
        self._seen(query, error)


def _note(ended: AsyncResult, query: Query, _error: str) -> None:
    ended.set(query)


def exchange_for(plan: Plan, client: Client, target: Target) -> Exchange:
    """Choose how the scenario's queries are carried out."""
    options: RunOptions = plan.options
    requests = Requests(
        target,
        plan.scenario,
        model=options.served_model or plan.scenario.model,
        api_key=options.api_key,
        tenant_keys=read_keys(options.tenant_keys),
    )
    if plan.scenario.api == "videos":
        return VideoJob(client, requests, timeout_s=options.timeout, poll_s=options.poll_s)
    return Streaming(client, requests, timeout_s=options.timeout)


def read_keys(path: str) -> dict[str, str]:
    """Read the API keys of tenants from a YAML file; none without a path.

    Raises ValueError, OSError.
    """
    if not path:
        return {}
    page = yaml.safe_load(Path(path).read_text())
    if not isinstance(page, dict):
        raise ValueError(f"{path} maps tenants to keys")
    return {str(tenant): str(key) for tenant, key in page.items()}


def raise_file_limit() -> int:
    """Allow as many open sockets as the system lets us; tell how many."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard
