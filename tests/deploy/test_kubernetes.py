"""Are the manifests what a cluster takes, and do they agree? No cluster ran them."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from scripts.kubernetes_engines import files
from tests.deploy.files import ROOT

DIRECTORY = ROOT / "deploy/kubernetes"
OF_OTHERS = {"kustomization.yaml", "keda.yaml", "sluice.yaml"}


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


def test_the_kustomization_names_every_manifest() -> None:
    named = yaml.safe_load((DIRECTORY / "kustomization.yaml").read_text())["resources"]
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
        assert template["spec"]["automountServiceAccountToken"] is False, name


def test_the_grace_is_longer_than_the_drain() -> None:
    drain_s = yaml.safe_load((DIRECTORY / "sluice.yaml").read_text())["timeouts"]["drain_s"]
    for name, template in pods():
        if name not in {"redis", "worker"}:
            assert template["spec"]["terminationGracePeriodSeconds"] > drain_s + 5, name


def test_the_engines_are_started_with_the_lines_of_the_code() -> None:
    for name, text in files():
        assert (DIRECTORY / name).read_text() == text


def test_the_scaled_object_asks_for_series_that_exist() -> None:
    from tests.deploy.test_observability import names_in, rules, told

    known = {*told(), *(rule["record"] for rule in rules() if "record" in rule)}
    found = yaml.safe_load(Path(DIRECTORY / "keda.yaml").read_text())
    targets = {name for name, _ in pods()}
    assert found["spec"]["scaleTargetRef"]["name"] in targets
    for trigger in found["spec"]["triggers"]:
        assert names_in(trigger["metadata"]["query"]) <= known
