"""What is asked of one replica, and how often?

`GET /ready` gates routing, `/health` is asked slowly and only where no call has proved life lately
(it costs the engine a token and a second), `/v1/loads` brings the load. A server without `/ready`
(404; a plain OpenAI server) is asked for `/health` instead, then for `/v1/models`.
"""

import asyncio
import errno
import logging
from dataclasses import dataclass

import aiohttp

from backends.clock import Clock
from backends.fleet import HealthState, Load, Replica
from backends.health import (
    CallOutcome,
    Probe,
    Rules,
    Vitals,
    after_call,
    after_liveness,
    after_probe,
    look_again_at,
)
from backends.registry import Registry
from backends.sglang import HEALTH_PATH, LOADS_PATH, READY_PATH, parse_loads
from backends.waits import first_of

READINESS_PATHS = (READY_PATH, HEALTH_PATH, "/v1/models")
_OUR_OWN_FAULTS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.EADDRNOTAVAIL})
_LONGEST_BODY_BYTES = 1024 * 1024
_LEAST_PAUSE_S = 0.05  # between probes that calls' faults hasten

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Pace:
    """How often replicas are asked, and how long they may take; seconds."""

    ready_every_s: float = 1.0
    ready_timeout_s: float = 2.0
    loads_every_s: float = 1.0
    loads_timeout_s: float = 2.0
    liveness_every_s: float = 30.0
    liveness_timeout_s: float = 25.0


class Watch:
    """All that is done for one replica: readiness, load and liveness, each at its own pace."""

    def __init__(
        self,
        replica: Replica,
        registry: Registry,
        session: aiohttp.ClientSession,
        pace: Pace,
        rules: Rules,
        clock: Clock,
    ) -> None:
        self.replica = replica
        self.vitals = Vitals()
        self._load: Load | None = None
        self._registry = registry
        self._session = session
        self._pace = pace
        self._rules = rules
        self._clock = clock
        self._hurry = asyncio.Event()
        self._answered_at = float("-inf")  # monotonic instant of the last proof of life
        self._way = 0  # which of READINESS_PATHS it knows
        self._base = replica.url.rstrip("/")
        self._headers = (
            {} if replica.api_key is None else {"Authorization": f"Bearer {replica.api_key}"}
        )

    async def run(self) -> None:
        """Ask for ever."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._keep_asking_ready())
            tasks.create_task(self._keep_asking_loads())
            tasks.create_task(self._keep_asking_liveness())

    def report(self, outcome: CallOutcome) -> None:
        """Take in how a call went; a fault of the connection hastens the next probe."""
        if outcome is CallOutcome.OK:
            self._answered_at = self._clock.monotonic()
        elif outcome is not CallOutcome.SERVER_ERROR:
            self._hurry.set()
        self._turn(after_call(self.vitals, outcome, now=self._clock.now(), rules=self._rules))

    async def _keep_asking_ready(self) -> None:
        while True:
            probe = await self._ask_ready()
            if probe is not None:
                now = self._clock.now()
                self._turn(after_probe(self.vitals, probe, now=now, rules=self._rules))
            if self._may_be_readmitted() and await self._ask_liveness():
                continue
            now = self._clock.now()
            every_s = self._pace.ready_every_s
            pause_s = look_again_at(self.vitals, now=now, every_s=every_s) - now
            await self._sleep_or_hurry(max(pause_s, _LEAST_PAUSE_S))

    async def _keep_asking_loads(self) -> None:
        while True:
            known = await self._ask_loads()
            # A server that has no such page is asked again, but rarely: it may be replaced.
            pause_s = self._pace.loads_every_s if known else self._pace.liveness_every_s
            await self._clock.sleep(pause_s)

    async def _keep_asking_liveness(self) -> None:
        while True:
            await self._clock.sleep(self._pace.liveness_every_s)
            idle_s = self._clock.monotonic() - self._answered_at
            serves = self.vitals.health.state is HealthState.READY
            if serves and self._way == 0 and idle_s >= self._pace.liveness_every_s:
                await self._ask_liveness()

    def _may_be_readmitted(self) -> bool:
        ejected = self.vitals.health.state is HealthState.EJECTED
        due = self._clock.now() >= self.vitals.retry_at
        return ejected and self.vitals.needs_liveness and due and self.vitals.probe_faults == 0

    async def _ask_ready(self) -> Probe | None:
        """Ask on the path that it knows; None where the fault is ours."""
        while True:
            found = await self._get(READINESS_PATHS[self._way], self._pace.ready_timeout_s)
            if found == 404 and self._way + 1 < len(READINESS_PATHS):
                self._way += 1
                continue
            if found != 200:
                self._way = 0  # what listens there next may be another server
            return found if found is None or isinstance(found, Probe) else _probe(found)

    async def _ask_liveness(self) -> bool:
        found = await self._get(HEALTH_PATH, self._pace.liveness_timeout_s)
        if found is None:
            return False
        alive = found == 200 or (isinstance(found, int) and 400 <= found < 500)
        now = self._clock.now()
        self._turn(after_liveness(self.vitals, alive, now=now, rules=self._rules))
        return alive

    async def _ask_loads(self) -> bool:
        """Take in the load; False where there is no such page."""
        body = bytearray()
        found = await self._get(LOADS_PATH, self._pace.loads_timeout_s, body)
        if found == 200:
            self._load = parse_loads(bytes(body), now=self._clock.now())
        elif found == 404:
            self._load = None
        self._registry.publish(self.replica.id, self.vitals.health, self._load)
        return found != 404

    async def _get(
        self, path: str, timeout_s: float, body: bytearray | None = None
    ) -> int | Probe | None:
        """Give the status, or how the request failed; None where the fault is ours."""
        timeout = aiohttp.ClientTimeout(total=timeout_s)
        try:
            async with self._session.get(
                self._base + path, headers=self._headers, timeout=timeout, allow_redirects=False
            ) as answer:
                size = 0
                async for piece in answer.content.iter_any():
                    size += len(piece)
                    if size > _LONGEST_BODY_BYTES:
                        return Probe.BROKEN
                    if body is not None:
                        body += piece
                return answer.status
        except TimeoutError:
            return Probe.TIMEOUT
        except aiohttp.ClientConnectorDNSError:
            return Probe.BROKEN
        except aiohttp.ClientConnectorError as error:
            return None if error.os_error.errno in _OUR_OWN_FAULTS else Probe.REFUSED
        except (aiohttp.ClientError, OSError, ValueError):
            return Probe.BROKEN

    def _turn(self, vitals: Vitals) -> None:
        """Remember, log a change of state, and publish what others see."""
        before, self.vitals = self.vitals, vitals
        if before.health is vitals.health or before.health == vitals.health:
            return
        if before.health.state is not vitals.health.state:
            health = vitals.health
            level = logging.WARNING if health.state is HealthState.EJECTED else logging.INFO
            _log.log(level, "replica %s is %s %s", self.replica.id, health.state, health.reason)
        self._registry.publish(self.replica.id, vitals.health, self._load)

    async def _sleep_or_hurry(self, pause_s: float) -> None:
        await self._clock.sleep(_LEAST_PAUSE_S)
        await first_of(self._clock.sleep(pause_s - _LEAST_PAUSE_S), self._hurry.wait())
        self._hurry.clear()


def _probe(status: int) -> Probe:
    match status:
        case 200 | 429:  # busy is not unready
            return Probe.READY
        case 503:
            return Probe.NOT_READY
        case _ if 400 <= status < 500 and status != 404:
            return Probe.NOT_READY
        case _:
            return Probe.BROKEN
