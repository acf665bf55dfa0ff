"""A gateway with small limits before simulated replicas, shared by the tests of a module."""

from collections.abc import AsyncIterator

import pytest

from backends.simulated.server import serve
from backends.simulated.settings import SimulatedSettings
from tests.gateways import RunningGateway, running_gateway

SERVED = "llama2-70b"
BODY_BYTES = 256 * 1024
HEADER_BYTES = 16 * 1024


@pytest.fixture(scope="module")
async def small_gateway(store_url: str) -> AsyncIterator[RunningGateway]:
    """Two replicas, bodies of 256 KiB and heads of 16 KiB at most."""
    simulated = SimulatedSettings(model=SERVED, replicas=2, mean_output_tokens=10)
    async with (
        serve(simulated) as urls,
        running_gateway(
            store_url.replace("db=0", "db=8"),
            {SERVED: urls},
            limits={"body_bytes": BODY_BYTES, "header_bytes": HEADER_BYTES},
        ) as gateway,
    ):
        yield gateway
