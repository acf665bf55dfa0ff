"""The Docker actuator against an emulation of the few calls of aiodocker that it makes."""

import asyncio
import json
from typing import Any

import pytest
from aiodocker.exceptions import DockerError
from redis.asyncio import Redis

from autoscale.actuate.docker import DockerActuator, DockerPool
from autoscale.actuate.unit import ActuationFailed, UnitState
from autoscale.drain import DrainPace
from backends.clock import SystemClock
from backends.fleet import Replica
from backends.lease import leased

LABELS = {"com.docker.compose.project": "p", "com.docker.compose.service": "replica"}
PACE = DrainPace(settle_s=0.01, quiet_s=0.03, look_every_s=0.01, within_s=5.0)


class Container:
    def __init__(self, engine: "Engine", name: str, config: dict[str, Any]) -> None:
        self.engine = engine
        self.name = name
        self.config = config
        self.calls: list[str] = []
        self._container = {
            "Id": f"{engine.number:064x}",
            "Names": [f"/{name}"],
            "Labels": config["Labels"],
            "State": "created",
            "Created": 1.0,
            "NetworkSettings": {"Networks": {"net": {"IPAddress": f"10.0.0.{engine.number}"}}},
        }

    async def start(self) -> None:
        self._container["State"] = "running"

    async def stop(self, t: int) -> None:
        self.calls.append(f"stop {t}")

    async def delete(self, force: bool = False) -> None:
        self.calls.append("delete")
        del self.engine.held[self.name]

    async def show(self) -> dict[str, Any]:
        return {
            "Config": self.config,
            "HostConfig": {
                "PortBindings": {"30000/tcp": [{"HostPort": "30000"}]},
                "Devices": [],
                "NetworkMode": "net",
            },
            "NetworkSettings": {
                "Networks": {
                    "store": {"Aliases": ["replica"]},
                    "net": {"Aliases": ["replica", "abc.def"]},
                }
            },
        }


class Engine:
    """`docker.containers`, in memory."""

    def __init__(self) -> None:
        self.held: dict[str, Container] = {}
        self.number = 0
        self.made: list[dict[str, Any]] = []
        self.joined: list[tuple[str, dict[str, Any]]] = []
        self.joins = True
        self.containers = self

    async def _query_json(self, path: str, method: str, data: bytes) -> None:
        """`POST /networks/NAME/connect`, as aiodocker sends it."""
        if not self.joins:
            raise DockerError(404, "no such network")
        assert method == "POST"
        self.joined.append((path, json.loads(data)))

    async def create(self, config: dict[str, Any], name: str) -> Container:
        if len(config.get("NetworkingConfig", {}).get("EndpointsConfig", {})) > 1:
            raise DockerError(400, "only one network may be named here")  # before Docker 25
        self.number += 1
        self.made.append(config)
        self.held[name] = Container(self, name, config)
        return self.held[name]

    async def list(self, all: bool, filters: dict[str, list[str]]) -> list[Container]:
        wanted = [tuple(each.split("=", 1)) for each in filters["label"]]
        return [
            c for c in self.held.values() if all and wanted == [*LABELS.items()] and c is not None
        ]

    async def get(self, name: str) -> Container:
        return self.held[name]


async def test_containers_are_made_like_the_services_own_and_leave_drained(redis: Redis) -> None:
    engine = Engine()
    await engine.create(
        {"Image": "sluice", "Cmd": ["serve"], "Labels": dict(LABELS)}, "p-replica-1"
    )
    pool = DockerPool("p", "replica", stop_grace_s=7)
    actuator = DockerActuator(engine, redis, {"m": pool}, clock=SystemClock(), pace=PACE)
    await actuator.start("m", 1)
    made = engine.made[1]
    assert made["Image"] == "sluice"
    assert made["Labels"]["sluice.pool"] == "m"
    assert made["HostConfig"]["PortBindings"] == {}  # one port of the host serves one container
    assert made["NetworkingConfig"]["EndpointsConfig"] == {"net": {"Aliases": ["replica"]}}
    new = next(name for name in engine.held if name != "p-replica-1")
    told = {"Container": new, "EndpointConfig": {"Aliases": ["replica"]}}
    assert engine.joined == [("networks/store/connect", told)]
    async with leased(redis, [Replica("r", "m", "http://10.0.0.2:30000")]):
        units = {u.name: u for u in await actuator.units("m")}
        assert (units[new].state, units[new].replicas) == (UnitState.SERVING, ("r",))
        assert units["p-replica-1"].state is UnitState.STARTING
        container = engine.held[new]
        await actuator.drain("m", [new])
        assert {u.name: u.state for u in await actuator.units("m")}[new] is UnitState.DRAINING
        async with asyncio.timeout(10):
            while new in engine.held:
                await asyncio.sleep(0.01)
    assert container.calls == ["stop 7", "delete"]
    await actuator.close()


async def test_a_container_that_cannot_join_its_networks_is_not_left_behind(redis: Redis) -> None:
    engine = Engine()
    await engine.create({"Image": "sluice", "Labels": dict(LABELS)}, "p-replica-1")
    pools = {"m": DockerPool("p", "replica")}
    actuator = DockerActuator(engine, redis, pools, clock=SystemClock())
    engine.joins = False
    with pytest.raises(ActuationFailed, match="no such network"):
        await actuator.start("m", 1)
    assert [*engine.held] == ["p-replica-1"]


async def test_without_a_pattern_nothing_is_started(redis: Redis) -> None:
    pools = {"m": DockerPool("p", "replica")}
    actuator = DockerActuator(Engine(), redis, pools, clock=SystemClock())
    with pytest.raises(ActuationFailed, match="no container of service replica"):
        await actuator.start("m", 1)
    with pytest.raises(ActuationFailed, match="nothing says"):
        await actuator.units("other")
