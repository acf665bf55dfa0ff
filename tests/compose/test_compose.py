"""Does compose.yaml bring up a system that serves, and that survives the loss of any one process?

Needs a Docker engine with Compose v2 on this machine: `make test-compose`.
"""

import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx2
import openai
import pytest

from tests.compose.stack import Project, docker, until

pytestmark = [
    pytest.mark.skipif(
        not os.environ.get("SLUICE_TEST_COMPOSE"),
        reason="needs a Docker engine; `make test-compose` runs it",
    ),
    pytest.mark.timeout(400),
    pytest.mark.xdist_group("compose"),
]

MODEL = "llama2-70b"
PROXY_PORT = "18449"
LOCUST_PORT = "18448"


@pytest.fixture(scope="module")
def project() -> Iterator[Project]:
    """The default services, with two containers of replicas, so that one may die."""
    found = Project(
        f"sluice-test-{os.getpid()}",
        files=("compose.yaml", "tests/compose/haproxy.yaml"),
        env={
            "SLUICE_PORTS": "18400-18447",
            "SLUICE_PROXY_PORT": PROXY_PORT,
            "LOADTEST_PORT": LOCUST_PORT,
            "COMPOSE_PROFILES": "simulated,proxy",
            "SIMULATED_VIDEO_SPEED": "100",
        },
    )
    try:
        found.run("build", within_s=400)
        found.up("--scale", "simulated=2")
        yield found
    finally:
        found.run("down", "--volumes", "--timeout", "5", "--remove-orphans", check=False)
    assert found.left() == []


@pytest.fixture
def client(project: Project) -> Iterator[openai.OpenAI]:
    """OpenAI's client, of the first gateway, as it comes: two retries."""
    with openai.OpenAI(base_url=project.url(), api_key=project.api_key(), timeout=60) as found:
        yield found


@dataclass
class Load:
    """Calls, one after another, until told to stop."""

    client: openai.OpenAI
    answered: int = 0
    failed: list[str] = field(default_factory=list)

    def run(self, stop: threading.Event) -> None:
        """Call and call again."""
        while not stop.is_set():
            try:
                ask(self.client)
            except openai.OpenAIError as error:
                self.failed.append(repr(error))
            else:
                self.answered += 1


def ask(client: openai.OpenAI, tokens: int = 16) -> str:
    """Get one whole answer."""
    answer = client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": "Tell me of rivers."}],
        max_tokens=tokens,
    )
    return answer.choices[0].message.content or ""


def stream(client: openai.OpenAI, tokens: int, on_first: threading.Event | None = None) -> int:
    """Read one stream to its end; give the tokens that it says it had."""
    used = 0
    for chunk in client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": "Tell me of rivers."}],
        max_tokens=tokens,
        stream=True,
        stream_options={"include_usage": True},
        extra_body={"ignore_eos": True},
    ):
        if on_first is not None:
            on_first.set()
        if chunk.usage is not None:
            used = chunk.usage.completion_tokens
    return used


def test_the_files_are_valid_with_all_profiles() -> None:
    profiles = ("rocm", "proxy", "autoscale", "observability", "loadtest")
    Project("sluice-config").run(*(f"--profile={each}" for each in profiles), "config", "--quiet")


def test_a_stream_comes_through(client: openai.OpenAI) -> None:
    assert stream(client, 40) == 40


def test_the_models_of_the_replicas_are_listed(client: openai.OpenAI) -> None:
    assert {"llama2-70b", "gpt-oss-120b"} <= {each.id for each in client.models.list()}


@pytest.mark.filterwarnings("ignore:The Sora API:DeprecationWarning")
def test_a_video_is_made_and_can_be_fetched(client: openai.OpenAI) -> None:
    video = client.videos.create(
        model="wan-2.2-t2v-a14b", prompt="a river", seconds="4", extra_body={"size": "832x480"}
    )
    until(lambda: client.videos.retrieve(video.id).status == "completed", "no video", within_s=90)
    assert client.videos.download_content(video.id).read()[4:8] == b"ftyp"


def test_containers_have_no_more_rights_than_they_need(project: Project) -> None:
    for service in ("gateway", "worker", "autoscaler", "simulated"):
        (found, *_) = project.containers(service)
        host = found["HostConfig"]
        assert found["Config"]["User"] == "10001:10001"
        assert host["ReadonlyRootfs"]
        assert host["CapDrop"] == ["ALL"]
        assert "no-new-privileges:true" in host["SecurityOpt"]


def test_the_image_is_small_and_holds_no_torch(project: Project) -> None:
    image = project.containers("gateway")[0]["Image"]
    ours = "/opt/sluice", "groupadd", "healthy"
    sizes = [
        int(size)
        for line in docker(
            "history", "--human=false", "--no-trunc", "--format", "{{.Size}} {{.CreatedBy}}", image
        ).splitlines()
        for size, _, made_by in [line.partition(" ")]
        if any(word in made_by for word in ours)
    ]
    assert sizes
    assert sum(sizes) < 200_000_000
    listed = project.run("exec", "-T", "gateway", "ls", "/opt/sluice/lib/python3.11/site-packages")
    assert not {"torch", "sglang", "pip", "setuptools", "hatchling"} & set(listed.split())


def test_no_call_is_lost_when_any_one_process_is_killed(
    project: Project, client: openai.OpenAI
) -> None:
    """The load goes to the first gateway: what the killed one held itself may end."""
    project.up("--scale", "simulated=2", "--scale", "gateway=2", "--no-recreate")
    load = Load(client)
    stop = threading.Event()
    threads = [threading.Thread(target=load.run, args=(stop,)) for _ in range(4)]
    for each in threads:
        each.start()
    try:
        until(lambda: load.answered > 10, "no load")
        for service, index in (
            *(("redis", 0), ("simulated", 0), ("simulated", 1)),
            *(("gateway", 1), ("worker", 0), ("autoscaler", 0), ("simulated-video", 0)),
        ):
            answered = load.answered
            project.kill(service, index)
            until(
                lambda answered=answered: load.answered > answered + 10,  # type: ignore[misc]
                f"nothing was answered after {service} was killed",
            )
    finally:
        stop.set()
        for each in threads:
            each.join()
    assert load.failed == []


def test_a_gateway_that_is_stopped_lets_its_streams_end(project: Project) -> None:
    project.up("--scale", "simulated=2", "--scale", "gateway=3", "--no-recreate")
    url, key = project.url(3), project.api_key()
    third = project.containers("gateway")[2]["Id"]
    began, used = threading.Event(), list[int]()
    with openai.OpenAI(base_url=url, api_key=key, timeout=120, max_retries=0) as client:
        reader = threading.Thread(target=lambda: used.append(stream(client, 600, began)))
        reader.start()
        assert began.wait(60)
        docker("stop", "--time", "90", third, within_s=120)
        reader.join(60)
    assert used == [600]


def test_one_address_serves_while_one_of_three_gateways_dies(project: Project) -> None:
    """What the killed gateway held is answered 502 by the proxy, and asked again by the client."""
    project.up("--scale", "simulated=2", "--scale", "gateway=3", "--no-recreate")
    base = f"http://127.0.0.1:{PROXY_PORT}"
    stop = threading.Event()
    with openai.OpenAI(base_url=f"{base}/v1", api_key=project.api_key(), timeout=60) as client:
        load = Load(client)
        threads = [threading.Thread(target=load.run, args=(stop,)) for _ in range(6)]
        for each in threads:
            each.start()
        try:
            until(lambda: load.answered > 20, "no load")
            answered = load.answered
            project.kill("gateway", 1)
            until(lambda: load.answered > answered + 40, "nothing was answered after the kill")
        finally:
            stop.set()
            for each in threads:
                each.join()
        assert load.failed == []
        assert stream(client, 200) == 200
    assert httpx2.get(f"{base}/metrics").status_code == 404


def test_locust_runs_from_its_page_with_workers_in_containers(project: Project) -> None:
    profile, base = "--profile=loadtest", f"http://127.0.0.1:{LOCUST_PORT}"
    services = ("loadtest-master", "loadtest-worker")
    project.run(profile, "build", "loadtest-master", within_s=400)
    project.run(profile, "up", "-d", "--wait", "--wait-timeout", "120", *services)

    def stats() -> Any:
        return httpx2.get(f"{base}/stats/requests").json()

    def answered() -> int:
        return max((each["num_requests"] for each in stats()["stats"]), default=0)

    try:
        until(lambda: len(stats()["workers"]) == 2, "not both workers are there")
        form = {
            **{"user_count": "2", "spawn_rate": "2", "scenario": "server", "model": MODEL},
            **{"target_qps": "8", "duration": "20", "samples": "100"},
        }
        httpx2.post(f"{base}/swarm", data=form).raise_for_status()
        until(lambda: answered() >= 40, "Locust's workers got no answers")
        assert [each["error"] for each in stats()["errors"]] == []
    finally:
        httpx2.get(f"{base}/stop")
        project.run(profile, "rm", "--stop", "--force", *services)


def test_a_second_project_serves_in_the_first_ones_registry(
    project: Project, client: openai.OpenAI
) -> None:
    """A further node: the same engine here, but reached by its networks from outside."""
    node = Project(
        f"{project.name}-node",
        files=("compose/node.yaml", "tests/compose/node_network.yaml"),
        env={"COMPOSE_PROFILES": "simulated", "FIRST_PROJECT": project.name},
    )
    try:
        node.up()
        listed = ("exec", "-T", "gateway", "sluice", "replicas", "list", "--json")
        until(lambda: "far-away" in project.run(*listed), "the node's replica did not register")
        assert stream(client, 8) == 8
        node.run("stop", "--timeout", "60")
        until(lambda: "far-away" not in project.run(*listed), "it is still registered")
    finally:
        node.run("down", "--timeout", "5", check=False)
