"""The Kubernetes actuator against an emulation of the API's few paths."""

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest
from redis.asyncio import Redis

from autoscale.actuate.kubernetes import DELETION_COST, KubernetesActuator, KubernetesPool
from autoscale.actuate.unit import ActuationFailed, UnitState
from autoscale.drain import DrainPace
from backends.clock import SystemClock
from backends.fleet import Replica
from backends.lease import leased

PACE = DrainPace(settle_s=0.01, quiet_s=0.03, look_every_s=0.01, within_s=5.0)


class Cluster:
    """Pods that follow a number: the cheapest to delete goes first, as the controller has it."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.replicas = 0
        self.version = 1
        self.pods: dict[str, dict[str, Any]] = {}
        self.number = 0

    async def request(
        self, method: str, path: str, body: Any = None, *, content_type: str = "application/json"
    ) -> Any:
        if path == self.path + "/scale":
            return self._scale(method, body)
        if path.startswith("/api/v1/namespaces/default/pods?"):
            return {"items": list(self.pods.values())}
        name = path.rpartition("/")[2]
        if method == "PATCH" and name in self.pods:
            assert content_type == "application/strategic-merge-patch+json"
            self.pods[name]["metadata"]["annotations"] = body["metadata"]["annotations"]
            return self.pods[name]
        raise ActuationFailed(f"{method} {path}: 404")

    def _scale(self, method: str, body: Mapping[str, Any] | None) -> Any:
        if method == "PUT":
            assert body is not None
            if body["metadata"]["resourceVersion"] != str(self.version):
                raise ActuationFailed("409 Conflict")
            self.replicas = body["spec"]["replicas"]
            self.version += 1
            while len(self.pods) > self.replicas:
                gone = min(self.pods, key=lambda n: float(self._cost(n)))
                del self.pods[gone]
        return {
            "metadata": {"resourceVersion": str(self.version)},
            "spec": {"replicas": self.replicas},
        }

    def _cost(self, name: str) -> str:
        annotations: dict[str, str] = self.pods[name]["metadata"].get("annotations", {})
        return annotations.get(DELETION_COST, "0")

    def schedule(self, *, ready: bool = True) -> None:
        """Let pods come up for what is asked."""
        while len(self.pods) < self.replicas:
            self.number += 1
            name, instant = f"pod-{self.number}", "2026-01-01T00:00:00Z"
            condition = {
                "type": "Ready",
                "status": "True" if ready else "False",
                "lastTransitionTime": instant,
            }
            self.pods[name] = {
                "metadata": {"name": name, "creationTimestamp": instant},
                "status": {
                    "phase": "Running" if ready else "Pending",
                    "podIP": f"10.0.0.{self.number}",
                    "conditions": [condition],
                },
            }


@pytest.mark.parametrize("kind", ["deployment", "leaderworkerset"])
async def test_the_scale_subresource_is_all_that_is_written(redis: Redis, kind: str) -> None:
    pool = KubernetesPool("engine", "app=engine", kind=kind)
    cluster = Cluster(pool.path)
    actuator = KubernetesActuator(cluster, redis, {"m": pool}, clock=SystemClock(), pace=PACE)
    await actuator.start("m", 3)
    assert cluster.replicas == 3
    assert {u.state for u in await actuator.units("m")} == {UnitState.STARTING}
    cluster.schedule()
    assert {u.state for u in await actuator.units("m")} == {UnitState.SERVING}
    replica = Replica("r2", "m", "http://10.0.0.2:30000")
    async with leased(redis, [replica]):
        units = {u.name: u for u in await actuator.units("m")}
        assert units["pod-2"].replicas == ("r2",)
        await actuator.drain("m", ["pod-2"])
        async with asyncio.timeout(10):
            while cluster.replicas == 3:
                await asyncio.sleep(0.01)
    assert set(cluster.pods) == {"pod-1", "pod-3"}
    await actuator.close()


async def test_a_pending_start_is_discarded_first(redis: Redis) -> None:
    pool = KubernetesPool("engine", "app=engine")
    cluster = Cluster(pool.path)
    actuator = KubernetesActuator(cluster, redis, {"m": pool}, clock=SystemClock(), pace=PACE)
    await actuator.start("m", 2)
    cluster.schedule(ready=False)
    await actuator.discard("m", ["pod-1"])
    assert (cluster.replicas, set(cluster.pods)) == (1, {"pod-2"})
    with pytest.raises(ActuationFailed, match="nothing says"):
        await actuator.start("other", 1)


class Later(SystemClock):
    """A clock that a test sets on."""

    at = 0.0

    def now(self) -> float:
        return self.at


async def test_a_replica_without_a_pod_has_waited_since_it_was_first_seen(redis: Redis) -> None:
    """As where a quota is spent: else a start that never comes would never be given up."""
    pool, clock = KubernetesPool("engine", "app=engine"), Later()
    cluster = Cluster(pool.path)
    actuator = KubernetesActuator(cluster, redis, {"m": pool}, clock=clock, pace=PACE)
    await actuator.start("m", 1)
    for at in (10.0, 500.0):
        clock.at = at
        (unit,) = await actuator.units("m")
        assert (unit.state, unit.asked_at) == (UnitState.STARTING, 10.0)
    cluster.schedule()
    await actuator.units("m")
    await actuator.start("m", 1)
    assert [u.asked_at for u in await actuator.units("m")][1:] == [500.0]
