"""Do rules, alerts and dashboards ask for what gateways tell?"""

import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from autoscale.endpoint import Gauges
from autoscale.loop import Autoscaler
from gateway.jobs.census import COUNTED, Census, PoolCensus, metrics_of
from gateway.telemetry import Metrics
from scripts.dashboards import files
from tests.deploy.files import DASHBOARDS, PROMETHEUS, ROOT, run

needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="needs promtool (Debian's package prometheus)"
)
KEYWORDS = frozenset(
    {
        *("by", "on", "or", "and", "rate", "sum", "max", "count", "vector", "scalar", "increase"),
        *("max_over_time", "label_values", "histogram_quantile", "offset", "without", "ignoring"),
        *("unless", "clamp_max"),
    }
)


def rules() -> list[dict[str, Any]]:
    """All recording rules and alerts."""
    found: list[dict[str, Any]] = []
    for path in sorted((PROMETHEUS / "rules").glob("*.yml")):
        for group in yaml.safe_load(path.read_text())["groups"]:
            found += group["rules"]
    return found


def asked_by_dashboards() -> list[tuple[str, str]]:
    """Every expression of every panel, with the file's name."""
    return [
        (path.name, target["expr"])
        for path in sorted(DASHBOARDS.glob("*.json"))
        for panel in json.loads(path.read_text())["panels"]
        for target in panel["targets"]
    ]


def told() -> dict[str, frozenset[str]]:
    """The names of all series that a gateway gives, with their labels."""
    labels: dict[str, frozenset[str]] = {}
    metrics = Metrics.create()
    for collector in list(metrics.registry._collector_to_names):
        for family in collector.collect():
            own = frozenset(getattr(collector, "_names", getattr(collector, "_labelnames", ())))
            endings = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}
            for ending in endings.get(family.type, ("",)):
                labels[family.name + ending] = own | ({"le"} if ending == "_bucket" else set())
    census = Census({"m": PoolCensus(1, 1.0, dict.fromkeys(COUNTED, 1.0))}, 1, 1)
    for family in text_string_to_metric_families(metrics_of(census).decode()):
        for sample in family.samples:
            labels[sample.name] = frozenset(sample.labels)
    for family in text_string_to_metric_families(autoscaler_s().decode()):
        for sample in family.samples:
            labels[sample.name] = frozenset(sample.labels)
    return labels


def autoscaler_s() -> bytes:
    """What an autoscaler of one pool of two kinds tells; the values do not matter."""
    view = SimpleNamespace(
        ready=1, starting=[], draining=0, stuck=0, blind=False, cold_start_s=60.0
    )
    plan = SimpleNamespace(target=1, wanted=1.0, price=1.0)
    stand = SimpleNamespace(serving=[], starting=[], draining=[], stuck=[], foreign=0)
    parts = [
        SimpleNamespace(
            look=SimpleNamespace(
                kind=SimpleNamespace(config=SimpleNamespace(name=name)), stand=stand
            )
        )
        for name in ("near", "far")
    ]
    last = SimpleNamespace(view=view, plan=plan, forecast=SimpleNamespace(level=1.0), parts=parts)
    return Gauges(cast(Autoscaler, SimpleNamespace(leads=True, last={"p": last}))).text()


def names_in(expr: str) -> set[str]:
    """The series that an expression names: words that are no function, label or text."""
    bare = re.sub(r'"[^"]*"', "", expr)
    bare = re.sub(r"\{[^}]*\}|\[[^]]*\]", "", bare)
    bare = re.sub(r"\b(by|on|without|ignoring)\s*\([^)]*\)", "", bare)
    words = re.findall(r"[a-zA-Z_:][a-zA-Z0-9_:]*", bare)
    return {word for word in words if word not in KEYWORDS}


def test_every_expression_names_a_series_that_exists() -> None:
    known = {*told(), "up", *(rule["record"] for rule in rules() if "record" in rule)}
    asked = [("rules", str(rule["expr"])) for rule in rules()] + asked_by_dashboards()
    assert len(asked) > 40
    for where, expr in asked:
        unknown = names_in(expr) - known
        assert not unknown, f"{where}: {sorted(unknown)} in {expr}"


def test_every_expression_selects_by_labels_that_the_series_has() -> None:
    known = told()
    recorded = {"sluice_class", "gen_ai_request_model", "sluice_tenant"}
    for where, expr in [("rules", str(r["expr"])) for r in rules()] + asked_by_dashboards():
        for name, selector in re.findall(r"([a-zA-Z_:][\w:]*)\{([^}]*)\}", expr):
            used = set(re.findall(r"(\w+)\s*[=!]~?", selector))
            has = known.get(name, frozenset({"job"}) if name == "up" else recorded)
            assert used <= has, f"{where}: {name} has no {sorted(used - has)}"


def test_the_dashboards_are_those_that_the_script_makes() -> None:
    made = dict(files())
    assert {path.name: path.read_text() for path in DASHBOARDS.glob("*.json")} == made


def test_every_alert_has_its_section_in_the_runbook_with_meaning_look_and_action() -> None:
    runbook = (ROOT / "docs/runbook.md").read_text()
    alerts = [rule for rule in rules() if "alert" in rule]
    assert len(alerts) > 8
    for each in alerts:
        _, found, section = runbook.partition(f"\n### {each['alert']}\n")
        assert found, each["alert"]
        section = section.partition("\n#")[0]
        said = [section.find(f"**{word}**: ") for word in ("Means", "Look", "Do")]
        assert -1 not in said, each["alert"]
        assert said == sorted(said), each["alert"]
        assert each["annotations"]["runbook"] == f"docs/runbook.md#{each['alert'].lower()}"
    sections = set(re.findall(r"^### (\w+)$", runbook, re.MULTILINE))
    assert sections == {each["alert"] for each in alerts}


def test_every_alert_is_tried_where_it_is_to_sound_and_where_it_is_not() -> None:
    found = yaml.safe_load((PROMETHEUS / "rules_test.yml").read_text())["tests"]
    tried = [each for test in found for each in test["alert_rule_test"]]
    sounds = {each["alertname"] for each in tried if each["exp_alerts"]}
    assert sounds == {rule["alert"] for rule in rules() if "alert" in rule}
    # Those of promises are tried on a class that keeps all of its own, in the same test.
    quiet = {each["alertname"] for each in tried if not each["exp_alerts"]}
    assert {name for name in sounds - quiet if "Promise" not in name} == set()


@needs_promtool
def test_prometheus_takes_its_configuration_and_the_rules_do_what_they_say() -> None:
    run("promtool", "check", "config", "prometheus.yml", cwd=PROMETHEUS)
    run("promtool", "test", "rules", "rules_test.yml", cwd=PROMETHEUS)


@needs_promtool
def test_every_expression_of_a_dashboard_parses(tmp_path: Path) -> None:
    exprs = [
        expr.replace("$__rate_interval", "1m").replace("$model", ".*").replace("$class", ".*")
        for _, expr in asked_by_dashboards()
    ]
    group = {
        "name": "dashboards",
        "rules": [{"record": f"x:{n}", "expr": expr} for n, expr in enumerate(exprs)],
    }
    path = tmp_path / "rules.yml"
    path.write_text(yaml.safe_dump({"groups": [group]}))
    run("promtool", "check", "rules", str(path))


def test_the_collector_s_pipelines_name_what_is_configured() -> None:
    found = yaml.safe_load((ROOT / "deploy/observability/otel/collector.yaml").read_text())
    for pipeline in found["service"]["pipelines"].values():
        for kind in ("receivers", "processors", "exporters"):
            assert set(pipeline[kind]) <= set(found[kind])
