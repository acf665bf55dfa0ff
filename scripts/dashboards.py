"""Write Grafana's dashboards: a title, and per panel what it asks Prometheus. `make deployment`."""

# ruff: noqa: E501 - the lines of the files that are written here, as they stand there

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DIRECTORY = Path(__file__).parent.parent / "deploy/observability/grafana/dashboards"
COLUMNS, WIDTH, HEIGHT = 2, 12, 8
SOURCE = {"type": "prometheus", "uid": "prometheus"}

MODEL = 'gen_ai_request_model=~"$model"'
CLASS = f'{MODEL}, sluice_class=~"$class"'


@dataclass(frozen=True, slots=True)
class Panel:
    """One graph: pairs of an expression and what its lines are called."""

    title: str
    asks: Sequence[tuple[str, str]]
    unit: str = "short"
    text: str = ""


def _quantile(metric: str, q: float, by: str = "sluice_class, gen_ai_request_model") -> str:
    return (
        f"histogram_quantile({q}, sum by (le, {by})"
        f" (rate({metric}_bucket{{{CLASS}}}[$__rate_interval])))"
    )


def _rate(metric: str, by: str, where: str = CLASS) -> str:
    return f"sum by ({by}) (rate({metric}{{{where}}}[$__rate_interval]))"


_TTFT, _TPOT = (
    "gen_ai_server_time_to_first_token_seconds",
    "gen_ai_server_time_per_output_token_seconds",
)
_BOTH = "{{sluice_class}} {{gen_ai_request_model}}"
_MODEL = "{{gen_ai_request_model}}"

DASHBOARDS: dict[str, Sequence[Panel]] = {
    "Sluice: fleet": (
        Panel("Replicas that take calls", [(f"max by (gen_ai_request_model) (sluice_ready_replicas{{{MODEL}}})", _MODEL)]),
        Panel("Gateways that answer", [('sum(up{job="sluice"})', "up"), ('count(up{job="sluice"})', "known")]),
        Panel("Calls that hold a slot", [(f"max by (gen_ai_request_model) (sluice_running_calls{{{MODEL}}})", _MODEL)]),
        Panel("Calls by outcome", [(_rate("sluice_calls_total", "outcome"), "{{outcome}}")], "reqps"),
        Panel("Output tokens", [(_rate("gen_ai_client_token_usage_sum", "gen_ai_request_model", f'{CLASS}, gen_ai_token_type="output"'), _MODEL)], "short", "tokens per second, as engines count them"),
        Panel("Attempts by how they ended", [(_rate("sluice_attempts_total", "ended", MODEL), "{{ended}}")], "reqps", "more attempts than calls: retries on another replica"),
        Panel("Requests refused at the door", [("sum by (code) (rate(sluice_refusals_total[$__rate_interval]))", "{{code}}")], "reqps"),
    ),
    "Sluice: classes": (
        Panel("Promises kept", [(f"sluice:attainment:ratio5m{{{CLASS}}}", _BOTH)], "percentunit", "the promise is p99: below 99 % it is broken"),
        Panel("Error budget burns", [(f"sluice:burn:rate1h{{{CLASS}}}", "1 h " + _BOTH), (f"sluice:burn:rate6h{{{CLASS}}}", "6 h " + _BOTH)], "short", "1: spent exactly at the end of its period"),
        Panel("Time to the first token, p99", [(_quantile(_TTFT, 0.99), _BOTH)], "s"),
        Panel("Time to the first token, p50", [(_quantile(_TTFT, 0.5), _BOTH)], "s"),
        Panel("Time per output token, p99", [(_quantile(_TPOT, 0.99), _BOTH)], "s"),
        Panel("Time per output token, p50", [(_quantile(_TPOT, 0.5), _BOTH)], "s"),
        Panel("Calls", [(_rate("sluice_calls_total", "sluice_class, gen_ai_request_model"), _BOTH)], "reqps"),
        Panel("Promises kept, by tenant", [(f"sluice:attainment_tenant:ratio5m{{{CLASS}}}", "{{sluice_tenant}} " + _BOTH)], "percentunit"),
    ),
    "Sluice: queue": (
        Panel("Calls that wait for a slot", [(f"max by (gen_ai_request_model) (sluice_waiting_calls{{{MODEL}}})", _MODEL)]),
        Panel("Wait for a slot, p99", [(_quantile("sluice_queue_seconds", 0.99), _BOTH)], "s"),
        Panel("Wait for a slot, p50", [(_quantile("sluice_queue_seconds", 0.5), _BOTH)], "s"),
        Panel("Calls refused", [(_rate("sluice_calls_total", "sluice_class, gen_ai_request_model", f'{CLASS}, outcome="refused"'), _BOTH)], "reqps"),
        Panel("Callers who left", [(_rate("sluice_calls_total", "sluice_class, gen_ai_request_model", f'{CLASS}, outcome="caller_left"'), _BOTH)], "reqps"),
        Panel("Duration of calls, p99", [(_quantile("gen_ai_server_request_duration_seconds", 0.99), _BOTH)], "s"),
    ),
    "Sluice: jobs": (
        Panel("Jobs that wait", [("max by (pool) (sluice_jobs_waiting)", "{{pool}}")]),
        Panel("Age of the job that is served next", [("max by (pool) (sluice_jobs_oldest_wait_seconds)", "{{pool}}")], "s"),
        Panel("Jobs that have not ended, replicas taken by jobs", [("max(sluice_jobs_live)", "live"), ("max(sluice_jobs_slots)", "replicas")]),
        Panel("Jobs taken on and ended", [(f"max by (pool) (rate(sluice_jobs_{each}_total[5m]))", each + " {{pool}}") for each in ("made", "completed", "failed", "dead")], "reqps"),
        Panel("Back to the queue", [("max by (pool) (rate(sluice_jobs_retries_total[5m]))", "{{pool}}")], "reqps"),
        Panel("Mean time of a job that ended well", [("max by (pool) (rate(sluice_jobs_service_seconds_total[1h])) / (max by (pool) (rate(sluice_jobs_completed_total[1h])) > 0)", "{{pool}}")], "s"),
    ),
    "Sluice: autoscaler": (
        Panel("Units: wanted by the forecast, target, ready", [(f"max by (pool) (sluice_autoscale_{each}_units)", each + " {{pool}}") for each in ("wanted", "target", "ready")]),
        Panel("Units that are not (yet) of use", [(f"max by (pool) (sluice_autoscale_{each}_units)", each + " {{pool}}") for each in ("starting", "draining", "stuck")]),
        Panel("Work of the last minute, in units", [("max by (pool) (sluice_autoscale_level_units)", "{{pool}}")]),
        Panel("Target above what is ready", [("max by (pool) (sluice_autoscale_target_units) - max by (pool) (sluice_autoscale_ready_units)", "{{pool}}")], "short", "long above 0: starts fail or take long; below 0: units drain"),
        Panel("Time from a start to serving", [("max by (pool) (sluice_autoscale_cold_start_seconds)", "{{pool}}")], "s"),
        Panel("What a miss costs, in units that run", [("max by (pool) (sluice_autoscale_price)", "{{pool}}")]),
        Panel("Instances: that act, that answer", [("sum(sluice_autoscale_leader)", "leaders"), ('sum(up{job="sluice-autoscaler"})', "up")], "short", "one leader, whatever the number of standbys"),
        Panel("Blind: gateways' signals are old", [("max by (pool) (sluice_autoscale_blind)", "{{pool}}")], "short", "1: nothing is shrunk"),
    ),
}  # fmt: skip


def files() -> Iterator[tuple[str, str]]:
    """Give each dashboard's file name and text."""
    for title, panels in DASHBOARDS.items():
        name = title.lower().replace(": ", "-").replace(" ", "-")
        yield f"{name}.json", json.dumps(_dashboard(title, name, panels), indent=1) + "\n"


def _dashboard(title: str, uid: str, panels: Sequence[Panel]) -> dict[str, Any]:
    return {
        "uid": uid,
        "title": title,
        "tags": ["sluice"],
        "timezone": "browser",
        "schemaVersion": 39,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {
            "list": [
                _variable("model", "label_values(sluice_calls_total, gen_ai_request_model)"),
                _variable("class", "label_values(sluice_calls_total, sluice_class)"),
            ]
        },
        "panels": [_panel(index, each) for index, each in enumerate(panels)],
    }


def _panel(index: int, panel: Panel) -> dict[str, Any]:
    return {
        "id": index + 1,
        "type": "timeseries",
        "title": panel.title,
        "description": panel.text,
        "datasource": SOURCE,
        "gridPos": {
            "x": index % COLUMNS * WIDTH,
            "y": index // COLUMNS * HEIGHT,
            "w": WIDTH,
            "h": HEIGHT,
        },
        "fieldConfig": {
            "defaults": {"unit": panel.unit, "min": 0, "custom": {"fillOpacity": 10}},
            "overrides": [],
        },
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}},
        "targets": [
            {"refId": chr(ord("A") + n), "expr": expr, "legendFormat": legend, "datasource": SOURCE}
            for n, (expr, legend) in enumerate(panel.asks)
        ],
    }


def _variable(name: str, query: str) -> dict[str, Any]:
    return {
        "name": name,
        "type": "query",
        "datasource": SOURCE,
        "query": query,
        "refresh": 2,
        "multi": True,
        "includeAll": True,
        "current": {"text": "All", "value": "$__all"},
    }


def main() -> None:
    """Write them all."""
    for name, text in files():
        (DIRECTORY / name).write_text(text)
        sys.stderr.write(f"{DIRECTORY / name}\n")


if __name__ == "__main__":
    main()
