"""How does a replica come into service, stay, and leave without losing a call?

It serves -> it passes its canary -> it has a lease with heartbeats -> (stop, removal, or its
process ends) -> it drains -> nothing runs -> the lease is given up -> its process is ended.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Sequence

import aiohttp
from redis.asyncio import Redis
from redis.exceptions import RedisError

from backends.clock import Clock, SystemClock
from backends.diffusion import videos_at_work
from backends.fleet import EngineKind, Replica
from backends.launch import (
    Launched,
    LaunchFailed,
    LaunchGivenUp,
    LaunchSpec,
    Progress,
    launched,
)
from backends.lease import LEASE_S, Lease, leased
from backends.proving import Unproven, until_gone
from backends.restarts import obey
from backends.sglang import LOADS_PATH, parse_loads
from backends.store import connect
from backends.waits import first_of

# Gateways read the registry every half second; a call that was routed before has arrived by then.
_SETTLE_S = 2.0
_LOOK_EVERY_S = 0.25

_log = logging.getLogger(__name__)


async def serve_replica(
    spec: LaunchSpec | None,
    replicas: Sequence[Replica],
    store_url: str,
    *,
    stop: asyncio.Event,
    drain_within_s: float = 600.0,
    lease_s: float = LEASE_S,
    on_progress: Progress | None = None,
    on_ready: Callable[[], None] | None = None,
    on_restart: Callable[[str], None] | None = None,
    prove: Callable[[Replica], Awaitable[object]] | None = None,
    clock: Clock | None = None,
) -> None:
    """Start the process of `spec` (None: it runs elsewhere, or is ours), hold its replicas' leases.

    `prove` is asked of each replica before any lease: what it raises ends this, and nothing was
    registered. One that runs elsewhere and ends afterwards ends this by Unproven, for a supervisor
    to begin anew: what is started in its place must prove itself (`backends.proving`).

    Where a replica is wished to start again (`backends.restarts`) its process is killed, which ends
    this as a failure, for a supervisor to begin anew; without a process `on_restart` gets its id.

    `on_ready` is called when the process serves and the leases were asked for; whether calls come
    is for the gateways' probes to say. Returns after `stop` was set or an operator has removed all
    of the replicas: they take nothing new, finish what they have within `drain_within_s`, give
    their leases up, and the process is ended. Cancel to skip that. Raises LaunchFailed if the
    process would not start or ended by itself.
    """
    time = clock or SystemClock()
    async with contextlib.AsyncExitStack() as stack:
        process: Launched | None = None
        if spec is not None:
            start = launched(spec, on_progress=on_progress, give_up=stop, clock=time)
            try:
                process = await stack.enter_async_context(start)
            except LaunchGivenUp:
                return
        if prove is not None and not await _proved(prove, replicas, process, stop):
            return
        proven = replicas if prove is not None and process is None else ()
        store = connect(store_url)
        stack.push_async_callback(store.aclose)
        lease = await stack.enter_async_context(leased(store, replicas, lease_s=lease_s))
        if on_ready is not None:
            on_ready()
        try:
            await first_of(
                stop.wait(),
                lease.all_removed.wait(),
                _end(process),
                _obey(store, replicas, process, on_restart, time),
                *(until_gone(each, clock=time) for each in proven),
            )
        except asyncio.CancelledError:  # it may hang, and nobody waits for its calls
            if process is not None:
                process.kill()
            raise
        _check_that_it_runs(process)
        if proven and not stop.is_set() and not lease.all_removed.is_set():
            urls = ", ".join(each.url for each in proven)
            raise Unproven(f"{urls} has ended: what comes in its place must pass its canary first")
        await _drain(lease, replicas, process, drain_within_s, time)


async def _proved(
    prove: Callable[[Replica], Awaitable[object]],
    replicas: Sequence[Replica],
    process: Launched | None,
    stop: asyncio.Event,
) -> bool:
    """Ask for every replica's proof; False where `stop` was set before it was given."""

    async def ask() -> None:
        for each in replicas:
            await prove(each)

    proof = asyncio.ensure_future(ask())
    try:
        await first_of(asyncio.wait([proof]), stop.wait(), _end(process))
        if proof.done():
            proof.result()
            return True
    finally:
        proof.cancel()
    _check_that_it_runs(process)
    return False


def _check_that_it_runs(process: Launched | None) -> None:
    if process is not None and process.returncode is not None:
        raise LaunchFailed(
            f"{process.spec.name} ended with status {process.returncode}; its log"
            f" ({process.spec.log_path}) ends:\n{process.log_tail()}"
        )


async def _drain(
    lease: Lease,
    replicas: Sequence[Replica],
    process: Launched | None,
    within_s: float,
    clock: Clock,
) -> None:
    """Take nothing new, and wait until nothing runs (or the process is gone, or time is up)."""
    try:
        await lease.drain()
    except RedisError as error:
        _log.warning("draining could not be told to the registry yet: %s", error)
    give_up_at = clock.monotonic() + within_s
    await clock.sleep(min(_SETTLE_S, within_s))
    busy = list(replicas)
    timeout = aiohttp.ClientTimeout(total=2.0)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        while busy and clock.monotonic() < give_up_at:
            if process is not None and process.returncode is not None:
                return
            work = await asyncio.gather(*(_work(session, each) for each in busy))
            busy = [r for r, count in zip(busy, work, strict=True) if count]
            if busy:
                await clock.sleep(_LOOK_EVERY_S)
    if busy:
        _log.warning("%d replicas still had work after %.0f s of draining", len(busy), within_s)


async def _work(session: aiohttp.ClientSession, replica: Replica) -> int:
    """Count what runs and waits on a replica; 0 where it does not listen or cannot say.

    One that is only slow to answer counts as busy.
    """
    if replica.engine is EngineKind.DIFFUSION:
        return await videos_at_work(session, replica)
    key = replica.api_key
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    try:
        async with session.get(replica.url.rstrip("/") + LOADS_PATH, headers=headers) as answer:
            if answer.status != 200:
                return 0
            load = parse_loads(await answer.read(), now=0.0)
            return 1 if load is None else load.running + load.waiting
    except TimeoutError:
        return 1
    except (aiohttp.ClientError, OSError):
        return 0


async def _obey(
    store: Redis,
    replicas: Sequence[Replica],
    process: Launched | None,
    on_restart: Callable[[str], None] | None,
    clock: Clock,
) -> None:
    """Do what is wished of the diffusion replicas here; never returns."""
    ids = [each.id for each in replicas if each.engine is EngineKind.DIFFUSION]

    def restart(replica_id: str) -> None:
        _log.warning("%s is started again, to stop what it works on", replica_id)
        if process is not None:
            process.kill()
        elif on_restart is not None:
            on_restart(replica_id)

    if ids and (process is not None or on_restart is not None):
        await obey(store, ids, restart, clock)
    await asyncio.Event().wait()


async def _end(process: Launched | None) -> None:
    if process is None:
        await asyncio.Event().wait()
    else:
        await process.wait()
