"""A gateway with keys before simulated replicas, for clients that know nothing of it."""

from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest

from backends.simulated.replica import SimulatedReplica
from backends.simulated.server import serve_replicas
from backends.simulated.settings import SimulatedSettings
from gateway.keys import Grant
from tests.gateways import RunningGateway, running_gateway

SERVED = "org/llama2-70b"
OTHER = "org/other"


@dataclass(frozen=True)
class Served:
    """Where a client points, with which keys: one for everything, one for no model of ours."""

    gateway: RunningGateway
    key: str
    narrow_key: str
    replicas: tuple[SimulatedReplica, ...]

    @property
    def base_url(self) -> str:
        """What a client calls the base URL."""
        return f"{self.gateway.url}/v1"


@pytest.fixture(scope="module")
async def served(store_url: str) -> AsyncIterator[Served]:
    """Two replicas of a model whose id has a slash."""
    simulated = SimulatedSettings(
        model="llama2-70b", replicas=2, mean_output_tokens=12, disconnect_poll_s=0.5
    )
    async with serve_replicas(simulated) as replicas:
        urls = [replica.url for replica in replicas]
        async with running_gateway(
            store_url.replace("db=0", "db=6"),
            {SERVED: urls, OTHER: []},
            no_auth=False,
            ready=True,
            limits={"body_bytes": 1024 * 1024},
        ) as gateway:
            keys = gateway.services.keys
            key, _ = await keys.create(Grant(name="all"))
            narrow, _ = await keys.create(Grant(name="narrow", models=frozenset({OTHER})))
            yield Served(gateway, key, narrow, replicas)
