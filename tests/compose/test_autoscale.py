"""Does the autoscaler start and drain replicas as containers, through its proxy, under load?

Needs a Docker engine with Compose v2 on this machine, and minutes: `make test-compose` with
SLUICE_TEST_AUTOSCALE=1.
"""

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.compose.stack import Project
from tests.system.rising_load import MODEL, RisingLoad

pytestmark = [
    pytest.mark.skipif(
        not (os.environ.get("SLUICE_TEST_COMPOSE") and os.environ.get("SLUICE_TEST_AUTOSCALE")),
        reason="needs a Docker engine, and minutes; SLUICE_TEST_AUTOSCALE=1 make test-compose",
    ),
    pytest.mark.timeout(900),
    pytest.mark.xdist_group("compose"),
]

# compose/conf/fleet-docker.yaml with times of seconds.
FLEET = """
actuator: docker
host: 0.0.0.0
port: 8010
tick_s: 1
pools:
  - model: llama2-70b
    hardware: mi355x
    replicas_per_unit: 1
    cold_start_s: 8
    policy: {{preset: balanced, least: 1, most: 4, up_area_s: 0.3, down_area_s: 15}}
    actuation: {{project: {project}, service: simulated, stop_grace_s: 630}}
"""


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    """The default services without video, one replica in one container, an autoscaler that acts."""
    name = f"sluice-scale-{os.getpid()}"
    (tmp_path / "fleet.yaml").write_text(FLEET.format(project=name))
    tmp_path.chmod(0o755)
    found = Project(
        name,
        files=("compose.yaml", "tests/compose/haproxy.yaml", "tests/compose/fast_fleet.yaml"),
        env={
            "SLUICE_PORTS": "18450-18459",
            "COMPOSE_PROFILES": "simulated,autoscale",
            "SIMULATED_REPLICAS": "1",
            "TEST_FLEET_DIR": str(tmp_path),
            "DOCKER_SOCKET": os.environ.get(
                "DOCKER_HOST", "unix:///var/run/docker.sock"
            ).removeprefix("unix://"),
        },
    )
    services = ("redis", "setup", "gateway", "worker", "simulated", "docker-proxy", "autoscaler")
    try:
        found.run("build", "setup", "autoscaler", "docker-proxy", within_s=400)
        found.up(*services)
        yield found
    finally:
        found.run("down", "--volumes", "--timeout", "5", "--remove-orphans", check=False)
    assert found.left() == []


async def _under_load(project: Project) -> tuple[RisingLoad, list[int]]:
    url = await asyncio.to_thread(project.url)
    load = RisingLoad(url, await asyncio.to_thread(project.api_key))
    running = list[int]()

    async def watch() -> None:
        while True:
            found = await asyncio.to_thread(project.containers, "simulated")
            running.append(len(found))
            await asyncio.sleep(5.0)

    watching = asyncio.create_task(watch())
    try:
        await load.run()
    finally:
        watching.cancel()
    return load, running


def test_containers_come_with_the_load_and_leave_without_cutting_a_stream(
    project: Project,
) -> None:
    load, running = asyncio.run(_under_load(project))
    asked = ("sluice", "autoscaler", "explain", "--pool", MODEL, "--count", "40")
    told = project.run("exec", "-T", "autoscaler", *asked)
    offered = sum(load.outcomes.values())
    print(f"\n{offered} calls: {dict(load.outcomes)}, {load.missed} first tokens late")
    print("containers of replicas, every 5 s:", running)
    print(told)
    assert load.outcomes["cut"] == 0
    assert load.outcomes["whole"] >= 0.9 * offered
    assert max(running) >= 3
    assert running[-1] < max(running)
    assert "start" in told
    assert "drain" in told
