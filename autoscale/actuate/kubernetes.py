"""How are replicas run by Kubernetes? Through the scale subresource alone.

Units of a Deployment are pods, those of a LeaderWorkerSet are groups. Kubernetes chooses what goes,
so the pods that were drained get the lowest deletion cost before the number is lowered. Tested
against an emulation of the API, not a cluster.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, Protocol

from redis.asyncio import Redis

from autoscale.actuate.hosts import replicas_by_host
from autoscale.actuate.tracked import Drains
from autoscale.actuate.unit import ActuationFailed, Unit, UnitState
from autoscale.drain import DrainPace
from backends.clock import Clock

DELETION_COST = "controller.kubernetes.io/pod-deletion-cost"
_GROUPS = {
    "deployment": "/apis/apps/v1/namespaces/{namespace}/deployments/{name}",
    "leaderworkerset": (
        "/apis/leaderworkerset.x-k8s.io/v1/namespaces/{namespace}/leaderworkersets/{name}"
    ),
}


@dataclass(frozen=True, slots=True)
class KubernetesPool:
    """Which workload serves a pool; `selector` finds its pods (of a LeaderWorkerSet: leaders)."""

    name: str
    selector: str
    kind: str = "deployment"
    namespace: str = "default"

    @property
    def path(self) -> str:
        """The workload's path in the API."""
        return _GROUPS[self.kind].format(namespace=self.namespace, name=self.name)


class Api(Protocol):
    """The few requests that are made, as JSON; raises ActuationFailed on any other status."""

    async def request(
        self, method: str, path: str, body: Any = None, *, content_type: str = "application/json"
    ) -> Any:
        """Send one request and give the answer's JSON."""
        ...


class ClientApi:
    """`Api` by kubernetes-asyncio's client, which knows credentials and TLS."""

    def __init__(self, client: Any) -> None:
        self._client = client

    async def request(
        self, method: str, path: str, body: Any = None, *, content_type: str = "application/json"
    ) -> Any:
        """Send one request and give the answer's JSON."""
        from kubernetes_asyncio.client.exceptions import ApiException

        plain, _, query = path.partition("?")
        pairs = [tuple(each.split("=", 1)) for each in query.split("&") if each]
        try:
            return await self._client.call_api(
                plain,
                method,
                query_params=pairs,
                header_params={"Content-Type": content_type, "Accept": "application/json"},
                body=body,
                response_types_map={"200": "object", "201": "object"},
                auth_settings=["BearerToken"],
                _return_http_data_only=True,
            )
        except ApiException as error:
            raise ActuationFailed(f"{method} {plain}: {error.status} {error.reason}") from error


class KubernetesActuator:
    """Changes numbers of replicas, and names the pods that are to go."""

    def __init__(
        self,
        api: Api,
        store: Redis,
        pools: Mapping[str, KubernetesPool],
        *,
        clock: Clock,
        pace: DrainPace | None = None,
    ) -> None:
        self._api = api
        self._store = store
        self._pools = pools
        self._clock = clock
        self._drains = Drains(store, clock=clock, pace=pace)
        self._scaling = asyncio.Lock()
        self._pending_since: dict[str, dict[str, float]] = {}  # by pool and name

    async def units(self, pool: str) -> Sequence[Unit]:
        """List the pods, and a unit for each replica that no pod stands for yet."""
        where = self._of(pool)
        by_host = await replicas_by_host(self._store)
        pods = await self._pods(where)
        found = [self._unit(pool, pod, by_host) for pod in pods]
        wanted = await self._wanted(where)
        now = self._clock.now()
        pending = [f"{where.name}-pending-{n}" for n in range(wanted - len(found))]
        known = self._pending_since.get(pool, {})
        since = {name: known.get(name, now) for name in pending}
        self._pending_since[pool] = since
        return [*found, *(Unit(n, pool, UnitState.STARTING, at) for n, at in since.items())]

    async def start(self, pool: str, count: int) -> None:
        """Raise the number."""
        await self._change(self._of(pool), count)

    async def discard(self, pool: str, names: Sequence[str]) -> None:
        """Lower the number by pods that serve nobody."""
        where = self._of(pool)
        for name in names:
            if "-pending-" not in name:
                await self._mark(where, name)
        await self._change(where, -len(names))

    async def drain(self, pool: str, names: Sequence[str]) -> None:
        """Drain pods, then let Kubernetes end them."""
        self._drains.begin(await self.units(pool), names, partial(self._end, pool))

    async def close(self) -> None:
        """Give drains up; pods stay."""
        await self._drains.close()

    async def _end(self, pool: str, name: str) -> None:
        where = self._of(pool)
        await self._mark(where, name)
        await self._change(where, -1)

    async def _mark(self, where: KubernetesPool, pod: str) -> None:
        """Name the pod that is to go first."""
        path = f"/api/v1/namespaces/{where.namespace}/pods/{pod}"
        body = {"metadata": {"annotations": {DELETION_COST: "-1000"}}}
        await self._api.request(
            "PATCH", path, body, content_type="application/strategic-merge-patch+json"
        )

    async def _change(self, where: KubernetesPool, by: int) -> None:
        """Change the scale, if nobody else did meanwhile (the resource version is sent back)."""
        async with self._scaling:
            scale = await self._api.request("GET", where.path + "/scale")
            scale["spec"]["replicas"] = max(0, int(scale["spec"].get("replicas", 0)) + by)
            await self._api.request("PUT", where.path + "/scale", scale)

    async def _wanted(self, where: KubernetesPool) -> int:
        scale = await self._api.request("GET", where.path + "/scale")
        return int(scale["spec"].get("replicas", 0))

    async def _pods(self, where: KubernetesPool) -> list[dict[str, Any]]:
        path = f"/api/v1/namespaces/{where.namespace}/pods?labelSelector={where.selector}"
        answer = await self._api.request("GET", path)
        return [p for p in answer["items"] if p["status"].get("phase") != "Succeeded"]

    def _unit(self, pool: str, pod: Mapping[str, Any], by_host: Mapping[str, list[str]]) -> Unit:
        name = pod["metadata"]["name"]
        status = pod["status"]
        ids = tuple(sorted({*by_host.get(status.get("podIP", ""), ()), *by_host.get(name, ())}))
        asked_at = _instant(pod["metadata"]["creationTimestamp"])
        conditions = {c["type"]: c for c in status.get("conditions", ())}
        ready = conditions.get("Ready", {})
        is_ready = ready.get("status") == "True"
        served_at = _instant(ready["lastTransitionTime"]) if is_ready else None
        state = UnitState.SERVING if is_ready else UnitState.STARTING
        if name in self._drains or pod["metadata"].get("deletionTimestamp"):
            state = UnitState.DRAINING
        elif status.get("phase") == "Failed":
            state = UnitState.FAILED
        why = conditions.get("PodScheduled", {}).get("message", "")
        return Unit(name, pool, state, asked_at, served_at, ids, why)

    def _of(self, pool: str) -> KubernetesPool:
        if pool not in self._pools:
            raise ActuationFailed(f"nothing says which workload serves {pool}")
        return self._pools[pool]


def _instant(text: str) -> float:
    return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()
