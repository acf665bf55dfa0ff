"""What does a scenario ask for: limits, dataset, request?

A scenario file (YAML) describes one model and its scenarios; ours lie in scenarios/, one's own
anywhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from loadtest.rules import Mode, Rules

APIS = ("chat", "completions", "videos")
_MODEL_KEYS = {"model", "api", "token_latencies", "whole_passes", "dataset", "request", "scenarios"}
_OWN_KEYS = {
    "mode", "loadgen_key", "service_tier", "ttft_ms", "tpot_ms", "latency_ms", "percentile",
    "min_duration_s", "min_queries", "concurrency", "published", "classes",
}  # fmt: skip


class ScenarioError(ValueError):
    """A scenario that does not exist or cannot be read."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """One scenario of one model.

    `request`: fields of every request body. `stand_in`: length distributions of the synthetic
    dataset. `concurrency`: the most open requests of an Offline run, None for no bound. `own`: not
    one of MLPerf's.
    """

    name: str
    model: str
    mode: Mode
    api: str
    loadgen_key: str
    rules: Rules
    whole_passes: bool
    dataset_name: str
    dataset_size: int
    stand_in: Mapping[str, Any]
    request: Mapping[str, Any]
    service_tier: str | None
    concurrency: int | None
    published: Mapping[str, Mapping[str, float]]
    own: bool
    class_rules: Mapping[str, Rules]


def known() -> dict[str, list[str]]:
    """List the shipped scenarios by model."""
    found = {}
    for entry in sorted(resources.files("loadtest").joinpath("scenarios").iterdir(), key=str):
        if entry.name.endswith(".yaml"):
            page = yaml.safe_load(entry.read_text(encoding="utf-8"))
            found[str(page["model"])] = sorted(page["scenarios"])
    return found


def load(scenario: str, model: str | None) -> Scenario:
    """Find a scenario by name and model, or in a file: `path.yaml` or `path.yaml:name`.

    Raises ScenarioError with what is known or wrong.
    """
    path, _, name = scenario.partition(".yaml")
    if _:
        file = Path(path + ".yaml")
        if not file.exists():
            raise ScenarioError(f"no scenario file {file}")
        return _read(file.read_text(encoding="utf-8"), name.lstrip(":"), str(file), model)
    if model is None:
        raise ScenarioError("--model names the model of the scenario")
    shipped = resources.files("loadtest").joinpath("scenarios", f"{model}.yaml")
    if "/" in model or not shipped.is_file():
        raise ScenarioError(f"no scenarios for model {model!r}; known: {', '.join(known())}")
    return _read(shipped.read_text(encoding="utf-8"), scenario, "", None)


def _read(text: str, name: str, origin: str, model: str | None) -> Scenario:
    page = yaml.safe_load(text)
    if not isinstance(page, dict) or not isinstance(page.get("scenarios"), dict):
        raise ScenarioError(f"{origin or name}: a scenario file has `scenarios`")
    _only(page, _MODEL_KEYS, origin or name)
    name = name.replace("-", "_").lower()
    if not name and len(page["scenarios"]) == 1:
        name = next(iter(page["scenarios"]))
    if name not in page["scenarios"]:
        names = ", ".join(page["scenarios"])
        raise ScenarioError(f"{page.get('model')}: no scenario {name!r}; known: {names}")
    own = page["scenarios"][name]
    _only(own, _OWN_KEYS, f"{origin}:{name}")
    if page.get("api") not in APIS:
        raise ScenarioError(f"{origin or name}: api is one of {', '.join(APIS)}")
    dataset = page.get("dataset") or {}
    return Scenario(
        name=name,
        model=model or str(page["model"]),
        mode=Mode(own.get("mode", "Server")),
        api=page["api"],
        loadgen_key=str(own.get("loadgen_key", page["model"])),
        rules=_rules(page, own),
        whole_passes=bool(page.get("whole_passes", False)),
        dataset_name=str(dataset.get("name", "own")),
        dataset_size=int(dataset.get("samples", 1000)),
        stand_in=dataset.get("stand_in") or {},
        request=page.get("request") or {},
        service_tier=own.get("service_tier"),
        concurrency=own.get("concurrency"),
        published=own.get("published") or {},
        own=bool(origin),
        class_rules={
            str(group): _rules(page, own | limits)
            for group, limits in (own.get("classes") or {}).items()
        },
    )


def _rules(page: Mapping[str, Any], own: Mapping[str, Any]) -> Rules:
    return Rules(
        mode=Mode(own.get("mode", "Server")),
        ttft_ns=_ns(own.get("ttft_ms")),
        tpot_ns=_ns(own.get("tpot_ms")),
        latency_ns=_ns(own.get("latency_ms")),
        percentile=float(own.get("percentile", 0.99)),
        min_duration_ns=round(float(own.get("min_duration_s", 600)) * 1e9),
        min_queries=int(own.get("min_queries", 100)),
        token_latencies=bool(page.get("token_latencies", True)),
    )


def _ns(milliseconds: float | None) -> int | None:
    return None if milliseconds is None else round(milliseconds * 1e6)


def _only(page: Mapping[str, Any], known_keys: set[str], where: str) -> None:
    unknown = set(page) - known_keys
    if unknown:
        raise ScenarioError(f"{where}: unknown {', '.join(sorted(unknown))}")
