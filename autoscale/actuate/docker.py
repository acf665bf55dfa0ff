"""How are replicas run as containers of a compose project?

A pool's containers are found by label, and made like one of the project's own (its service's
container is the pattern), so that networks, volumes and devices are those of compose.yaml.
"""

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any

from aiodocker.exceptions import DockerError
from aiodocker.networks import DockerNetwork
from redis.asyncio import Redis

from autoscale.actuate.hosts import replicas_by_host
from autoscale.actuate.tracked import Drains
from autoscale.actuate.unit import ActuationFailed, Unit, UnitState
from autoscale.drain import DrainPace
from backends.clock import Clock

POOL_LABEL = "sluice.pool"
UNIT_LABEL = "sluice.unit"
ASKED_LABEL = "sluice.asked-at"
_PROJECT = "com.docker.compose.project"
_SERVICE = "com.docker.compose.service"


@dataclass(frozen=True, slots=True)
class DockerPool:
    """Which service of which compose project is the pattern of a pool's containers."""

    project: str
    service: str
    stop_grace_s: int = 60


class DockerActuator:
    """Runs units through the Docker Engine API; `docker` is an `aiodocker.Docker`."""

    def __init__(
        self,
        docker: Any,
        store: Redis,
        pools: Mapping[str, DockerPool],
        *,
        clock: Clock,
        pace: DrainPace | None = None,
    ) -> None:
        self._docker = docker
        self._store = store
        self._pools = pools
        self._clock = clock
        self._drains = Drains(store, clock=clock, pace=pace)
        self._patterns: dict[str, Mapping[str, Any]] = {}

    async def units(self, pool: str) -> Sequence[Unit]:
        """List the pool's containers with what the registry says of them."""
        by_host = await replicas_by_host(self._store)
        if pool not in self._patterns:
            with contextlib.suppress(ActuationFailed), _answers("no pattern"):
                await self._pattern(pool)
        found = []
        with _answers("its containers cannot be listed"):
            containers = await self._containers(pool)
        for container in containers:
            name = container["Names"][0].lstrip("/")
            hosts = {container["Id"][:12], name, *_addresses(container)}
            ids = tuple(sorted(id_ for host in hosts for id_ in by_host.get(host, ())))
            found.append(self._unit(pool, name, container, ids))
        return found

    async def start(self, pool: str, count: int) -> None:
        """Make and start containers after the service's pattern."""
        where = self._of(pool)
        with _answers("no container could be started"):
            pattern = await self._pattern(pool)
            for _ in range(count):
                stamp = time.monotonic_ns() % 10**10
                name = f"{where.project}-{where.service}-sluice-{stamp}"
                config, further = _like(pattern, pool, name, self._clock.now())
                container = await self._docker.containers.create(config, name=name)
                try:
                    for network, endpoint in further.items():
                        joined = DockerNetwork(self._docker, network)  # type: ignore[no-untyped-call]
                        await joined.connect({"Container": name, "EndpointConfig": endpoint})
                    await container.start()
                except BaseException:
                    with contextlib.suppress(DockerError):  # what went wrong first is told
                        await container.delete(force=True)
                    raise

    async def discard(self, pool: str, names: Sequence[str]) -> None:
        """Kill and remove containers that serve nobody."""
        for name in names:
            with _answers(f"{name} could not be ended"):
                container = await self._docker.containers.get(name)
                await container.delete(force=True)

    async def drain(self, pool: str, names: Sequence[str]) -> None:
        """Drain, then SIGTERM with the grace, then remove."""
        self._drains.begin(await self.units(pool), names, partial(self._end, pool))

    async def close(self) -> None:
        """Give drains up; containers stay."""
        await self._drains.close()

    async def _end(self, pool: str, name: str) -> None:
        container = await self._docker.containers.get(name)
        await container.stop(t=self._of(pool).stop_grace_s)
        await container.delete(force=True)

    def _unit(
        self, pool: str, name: str, container: Mapping[str, Any], ids: tuple[str, ...]
    ) -> Unit:
        labels = container.get("Labels") or {}
        asked_at = float(labels.get(ASKED_LABEL) or container.get("Created") or 0.0)
        state = UnitState.SERVING if ids else UnitState.STARTING
        if name in self._drains:
            state = UnitState.DRAINING
        elif container.get("State") in {"exited", "dead"}:
            state = UnitState.FAILED
        return Unit(name, pool, state, asked_at, None, ids, str(container.get("Status", "")))

    async def _containers(self, pool: str) -> list[Mapping[str, Any]]:
        where = self._of(pool)
        labels = [f"{_PROJECT}={where.project}", f"{_SERVICE}={where.service}"]
        found = await self._docker.containers.list(all=True, filters={"label": labels})
        return [container._container for container in found]

    async def _pattern(self, pool: str) -> Mapping[str, Any]:
        """Show a container of the pool; the last one seen where all are gone."""
        where = self._of(pool)
        labels = [f"{_PROJECT}={where.project}", f"{_SERVICE}={where.service}"]
        found = await self._docker.containers.list(all=True, filters={"label": labels})
        if found:
            self._patterns[pool] = await found[0].show()
        if pool not in self._patterns:
            raise ActuationFailed(
                f"no container of service {where.service} in project {where.project} to start like"
            )
        return self._patterns[pool]

    def _of(self, pool: str) -> DockerPool:
        if pool not in self._pools:
            raise ActuationFailed(f"nothing says which containers serve {pool}")
        return self._pools[pool]


@contextlib.contextmanager
def _answers(otherwise: str) -> Iterator[None]:
    """Turn what the engine refuses, or its silence, into ActuationFailed."""
    try:
        yield
    except (DockerError, OSError, TimeoutError) as error:
        raise ActuationFailed(f"{otherwise}: {error!r}") from error


def _addresses(container: Mapping[str, Any]) -> list[str]:
    networks = (container.get("NetworkSettings") or {}).get("Networks") or {}
    return [n["IPAddress"] for n in networks.values() if n.get("IPAddress")]


def _like(
    pattern: Mapping[str, Any], pool: str, name: str, now: float
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Describe a container like another one, with its own name and our labels.

    Also gives the endpoints of the networks to connect it to afterwards: engines before Docker 25
    refuse to make a container with more than one.
    """
    config = pattern["Config"]
    host = dict(pattern["HostConfig"])
    host.pop("ContainerIDFile", None)
    host["PortBindings"] = {}  # one port on the host serves one container
    networks = pattern["NetworkSettings"]["Networks"]
    endpoints = {
        network: {"Aliases": [a for a in each.get("Aliases") or () if "." not in a][:1]}
        for network, each in networks.items()
    }
    first = host.get("NetworkMode")
    if first not in endpoints:
        first = next(iter(endpoints), None)
    further = {network: each for network, each in endpoints.items() if network != first}
    labels = {**(config.get("Labels") or {}), POOL_LABEL: pool, UNIT_LABEL: name}
    labels[ASKED_LABEL] = f"{now:.3f}"
    labels.pop("com.docker.compose.container-number", None)
    kept = ("Image", "Cmd", "Entrypoint", "Env", "WorkingDir", "User", "Healthcheck", "StopSignal")
    made = {
        **{key: config[key] for key in kept if config.get(key) is not None},
        "Labels": labels,
        "HostConfig": host,
        "NetworkingConfig": {"EndpointsConfig": {first: endpoints[first]} if first else {}},
    }
    return made, further


def created_at(text: str) -> float:
    """Read Docker's instants (RFC 3339 with nanoseconds)."""
    return datetime.fromisoformat(text[:26].rstrip("Z") + "+00:00").timestamp()
