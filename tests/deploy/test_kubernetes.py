"""Are the manifests what a cluster takes, and do they agree? No cluster ran them."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from redis.asyncio import Redis

from autoscale.actuate.kubernetes import KubernetesActuator, KubernetesPool
from autoscale.config import read
from backends.clock import SystemClock
from scripts.kubernetes_engines import files
from tests.deploy.files import ROOT

DIRECTORY = ROOT / "deploy/kubernetes"
OF_OTHERS = {"kustomization.yaml", "keda.yaml", "sluice.yaml", "fleet.yaml"}


def documents(*, ours: bool = True) -> list[dict[str, Any]]:
    """Every object of every manifest; `ours` leaves out what is no part of Kubernetes itself."""
    paths = sorted(DIRECTORY.glob("*.yaml"))
    return [
        each
        for path in paths
        if not (ours and path.name in OF_OTHERS)
        for each in yaml.safe_load_all(path.read_text())
        if each is not None
    ]


def pods() -> list[tuple[str, dict[str, Any]]]:
    """The pod templates, by name."""
    return [
        (each["metadata"]["name"], each["spec"]["template"])
        for each in documents()
        if "template" in each.get("spec", {})
    ]


def test_every_object_keeps_to_its_schema() -> None:
    validate = pytest.importorskip("kubernetes_validate", reason="needs kubernetes-validate")
    found = documents()
    assert len(found) > 15
    for each in found:
        validate.validate(each, "1.37", strict=True)


def test_the_kustomization_names_every_manifest_and_makes_every_map_that_is_mounted() -> None:
    made = yaml.safe_load((DIRECTORY / "kustomization.yaml").read_text())
    maps = {each["name"]: each["files"] for each in made["configMapGenerator"]}
    volumes = [v for _, template in pods() for v in template["spec"].get("volumes", ())]
    assert {v["configMap"]["name"] for v in volumes if "configMap" in v} == set(maps)
    assert all((DIRECTORY / name).exists() for names in maps.values() for name in names)
    named = made["resources"]
    assert set(named) == {p.name for p in DIRECTORY.glob("*.yaml")} - OF_OTHERS


def test_selectors_find_pods_that_exist() -> None:
    labels = [template["metadata"]["labels"] for _, template in pods()]
    for each in documents():
        spec = each.get("spec", {})
        for wanted in (
            spec.get("selector", {}).get("matchLabels", {}),
            spec.get("podSelector", {}).get("matchLabels", {}),
            spec["selector"] if each["kind"] == "Service" else {},
        ):
            assert not wanted or any(wanted.items() <= found.items() for found in labels), each


def test_our_containers_have_no_rights() -> None:
    for name, template in pods():
        for each in template["spec"]["containers"]:
            rights = each["securityContext"]
            assert rights["readOnlyRootFilesystem"], name
            assert rights["capabilities"]["drop"] == ["ALL"], name
            assert not rights["allowPrivilegeEscalation"], name
        speaks_with_the_cluster = name == "autoscaler"
        assert template["spec"]["automountServiceAccountToken"] is speaks_with_the_cluster, name


def test_the_grace_is_longer_than_the_drain() -> None:
    drain_s = yaml.safe_load((DIRECTORY / "sluice.yaml").read_text())["timeouts"]["drain_s"]
    for name, template in pods():
        if name not in {"autoscaler", "redis", "worker"}:
            assert template["spec"]["terminationGracePeriodSeconds"] > drain_s + 5, name


def test_the_engines_are_started_with_the_lines_of_the_code() -> None:
    for name, text in files():
        assert (DIRECTORY / name).read_text() == text


def test_the_autoscaler_s_pools_are_deployments_that_are_there() -> None:
    fleet = read(DIRECTORY / "fleet.yaml")
    assert fleet.actuator == "dry"
    templates = dict(pods())
    for pool in fleet.pools:
        where = KubernetesPool(**pool.actuation)
        template = templates[where.name]
        label, _, value = where.selector.partition("=")
        assert template["metadata"]["labels"][label] == value
        assert where.namespace == "sluice"
        assert template["spec"]["terminationGracePeriodSeconds"] > fleet.drain_within_s


async def test_the_autoscaler_may_do_what_it_does_and_nothing_else(redis: Redis) -> None:
    """Its requests are those of the actuator, of which the role's words are made here."""
    fleet = read(DIRECTORY / "fleet.yaml")
    api = Listening()
    pools = {p.model: KubernetesPool(**p.actuation) for p in fleet.pools}
    scaler = KubernetesActuator(api, redis, pools, clock=SystemClock())
    await scaler.units("llama2-70b")
    await scaler.start("llama2-70b", 1)
    await scaler.discard("llama2-70b", ["a-pod"])
    (role,) = [each for each in documents() if each["kind"] == "Role"]
    allowed = {
        (group, resource, verb)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    assert api.asked == allowed


class Listening:
    """Answers as an empty cluster would, and notes which right each request needs."""

    def __init__(self) -> None:
        self.asked: set[tuple[str, str, str]] = set()

    async def request(
        self, method: str, path: str, body: Any = None, *, content_type: str = "application/json"
    ) -> Any:
        """Note one request."""
        words = path.partition("?")[0].strip("/").split("/")
        group = "" if words[0] == "api" else words[1]
        kind, *rest = words[words.index("namespaces") + 2 :]
        resource = "/".join([kind, *rest[1:]])
        verbs = {"PATCH": "patch", "PUT": "update", "GET": "get" if rest else "list"}
        self.asked.add((group, resource, verbs[method]))
        return {"items": [], "spec": {"replicas": 1}}


def test_the_scaled_object_asks_for_series_that_exist() -> None:
    from tests.deploy.test_observability import names_in, rules, told

    known = {*told(), *(rule["record"] for rule in rules() if "record" in rule)}
    found = yaml.safe_load(Path(DIRECTORY / "keda.yaml").read_text())
    targets = {name for name, _ in pods()}
    assert found["spec"]["scaleTargetRef"]["name"] in targets
    for trigger in found["spec"]["triggers"]:
        assert names_in(trigger["metadata"]["query"]) <= known
