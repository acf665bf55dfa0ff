"""What lies in the directory of a run, and how is it written and read back?"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import zstandard

from loadtest import logsummary
from loadtest.attainment import Attainment, Share
from loadtest.figures import UNANSWERED_NS, Distribution
from loadtest.judgement import Judgement
from loadtest.plan import Plan
from loadtest.records import RECORD, Log, Outcome
from loadtest.rules import Mode, Rules
from loadtest.store import RECORDS, STATUS

SUMMARY = "summary.json"
DETAIL = "detail.jsonl.zst"
MLPERF = "mlperf_log_summary.txt"
REPORT = "report.html"


@dataclass(frozen=True, slots=True)
class Outcomes:
    """Everything that is told of a run."""

    plan: Plan
    log: Log
    judgement: Judgement
    attainment: Attainment
    manifest: dict[str, Any]
    status: dict[str, Any]


def headline(judgement: Judgement) -> dict[str, Any]:
    """Give the one figure that the scenario is about: its name, value and unit."""
    match judgement.rules.mode:
        case Mode.SINGLE_STREAM:
            value = (judgement.estimate_ns or 0) / 1e9
            return {"metric": "early_stopping_latency", "value": value, "unit": "s"}
        case _ if judgement.rules.token_latencies:
            value = judgement.completed_tokens_per_s
            return {"metric": "tokens_per_second", "value": value, "unit": "tokens/s"}
        case _:
            value = judgement.completed_samples_per_s
            return {"metric": "samples_per_second", "value": value, "unit": "samples/s"}


def summary(found: Outcomes) -> dict[str, Any]:
    """Build the machine-readable summary; latencies in milliseconds, null where unanswered."""
    judgement, plan = found.judgement, found.plan
    options = {k: v for k, v in asdict(plan.options).items() if k != "api_key"}
    return {
        "format": 1,
        "verdict": str(judgement.verdict),
        "faithful": not plan.deviations,
        "deviations": list(plan.deviations),
        "reasons": [asdict(reason) for reason in judgement.reasons],
        "warnings": [*judgement.warnings, *_why(found)],
        "headline": headline(judgement),
        "scenario": _scenario(found),
        "limits": _limits(judgement.rules),
        "queries": _queries(found),
        "rates": _rates(found),
        "latency_ms": _table(judgement.latency),
        "ttft_ms": _table(judgement.ttft),
        "tpot_ms": _table(judgement.tpot),
        "generator_lateness_ms": _table(judgement.lateness),
        "early_stopping": [asdict(one) | {"more": one.more} for one in judgement.early_stopping],
        "effective_percentile": judgement.effective_percentile,
        "single_stream": {
            "estimate_ms": _ms(judgement.estimate_ns),
            "estimate99_ms": _ms(judgement.estimate99_ns),
            "discarded": judgement.discarded,
        },
        "goodput": {
            "overall": _share(found.attainment.overall),
            "by_class": {k: _share(v) for k, v in found.attainment.by_group.items()},
            "by_tenant": {k: _share(v) for k, v in found.attainment.by_tenant.items()},
            "worst_minute": (
                asdict(found.attainment.worst_minute) if found.attainment.worst_minute else None
            ),
        },
        "dataset": {
            "name": plan.dataset.name,
            "size": plan.dataset.size,
            "synthetic": plan.dataset.synthetic,
            "sha256": plan.dataset.digest,
            "note": plan.dataset.note,
        },
        "schedule": {"kind": plan.schedule.kind, "sha256": plan.schedule.digest},
        "configuration_sha256": plan.digest,
        "options": options,
        "errors": found.status.get("errors", {}),
        "generators": found.status.get("costs", []),
        "manifest": found.manifest,
    }


def clear(out: Path) -> None:
    """Make the directory of a run, without the results of an earlier one."""
    out.mkdir(parents=True, exist_ok=True)
    for name in (SUMMARY, DETAIL, MLPERF, REPORT, RECORDS, STATUS):
        (out / name).unlink(missing_ok=True)


def write(out: Path, found: Outcomes) -> dict[str, Any]:
    """Write summary, detail and the LoadGen-style summary; give the summary."""
    page = summary(found)
    (out / SUMMARY).write_text(json.dumps(page, indent=1) + "\n")
    (out / MLPERF).write_text(mlperf_summary(found))
    write_detail(out / DETAIL, found)
    return page


def mlperf_summary(found: Outcomes) -> str:
    """Render LoadGen's summary text of a run."""
    plan, judgement = found.plan, found.judgement
    parameters: dict[str, object] = {
        "samples_per_query": 1,
        "target_qps": f"{plan.options.target_qps:g}",
        "ttft_latency (ns)": judgement.rules.ttft_ns or 0,
        "tpot_latency (ns)": judgement.rules.tpot_ns or 0,
        "min_duration (ms)": judgement.rules.min_duration_ns // 1_000_000,
        "min_query_count": judgement.rules.min_queries,
        "qsl_rng_seed": plan.seeds.load_order,
        "sample_index_rng_seed": plan.seeds.sample_order,
        "schedule_rng_seed": plan.seeds.arrivals,
        "performance_sample_count": plan.dataset.size,
    }
    notes = [f"Reason: {reason.text}" for reason in judgement.reasons]
    notes += [f"Deviation: {text}" for text in plan.deviations]
    notes += [f"Warning: {text}" for text in judgement.warnings]
    name = str(found.manifest.get("base_url", "endpoint"))
    return logsummary.render(judgement, name=name, parameters=parameters, notes=notes)


def write_detail(path: Path, found: Outcomes) -> None:
    """Write one JSON line per query, instants in ns from the start, compressed with zstd."""
    names = [name for name in RECORD.names or () if name != "outcome"]
    header = {
        "format": 1,
        "columns": names,
        "verdict": str(found.judgement.verdict),
        "configuration_sha256": found.plan.digest,
    }
    with path.open("wb") as file, zstandard.ZstdCompressor(level=6).stream_writer(file) as packed:
        packed.write(json.dumps(header).encode() + b"\n")
        for row in found.log.rows:
            line = {name: int(row[name]) for name in names}
            line_text = json.dumps(line | {"outcome": Outcome(int(row["outcome"])).name.lower()})
            packed.write(line_text.encode() + b"\n")


def read_detail(path: Path) -> Iterator[dict[str, Any]]:
    """Read the queries of a detail file back, the header left out."""
    with path.open("rb") as file, zstandard.ZstdDecompressor().stream_reader(file) as plain:
        lines = io.TextIOWrapper(plain, encoding="utf-8")
        next(lines)
        for line in lines:
            yield json.loads(line)


def read_summary(out: Path) -> dict[str, Any]:
    """Read a summary from its directory or its file. Raises FileNotFoundError, ValueError."""
    path = out / SUMMARY if out.is_dir() else out
    page = json.loads(path.read_text())
    if not isinstance(page, dict) or page.get("format") != 1:
        raise ValueError(f"{path} is no summary of a run")
    return page


def _scenario(found: Outcomes) -> dict[str, Any]:
    return {
        "name": found.plan.scenario.name,
        "model": found.plan.scenario.model,
        "mode": str(found.judgement.rules.mode),
        "loadgen_key": found.plan.scenario.loadgen_key,
        "published": {k: dict(v) for k, v in found.plan.scenario.published.items()},
    }


def _limits(rules: Rules) -> dict[str, Any]:
    return {
        "ttft_ms": _ms(rules.ttft_ns),
        "tpot_ms": _ms(rules.tpot_ns),
        "latency_ms": _ms(rules.latency_ns),
        "percentile": rules.percentile,
        "min_duration_s": rules.min_duration_ns / 1e9,
        "min_queries": rules.min_queries,
    }


def _queries(found: Outcomes) -> dict[str, Any]:
    return {
        "offered": found.attainment.overall.offered,
        "recorded": found.judgement.queries,
        "answered": found.judgement.answered,
        "outcomes": found.judgement.outcomes,
        "tokens": found.judgement.tokens,
    }


def _rates(found: Outcomes) -> dict[str, Any]:
    return {
        "target_qps": found.plan.options.target_qps,
        "scheduled_samples_per_s": found.judgement.scheduled_samples_per_s,
        "completed_samples_per_s": found.judgement.completed_samples_per_s,
        "completed_tokens_per_s": found.judgement.completed_tokens_per_s,
        "window_s": found.judgement.window_s,
        "duration_s": found.judgement.duration_s,
    }


def _why(found: Outcomes) -> list[str]:
    why = found.status.get("why")
    return [f"the run did not end as planned: {why}"] if why else []


def _ms(nanoseconds: int | None) -> float | None:
    return None if nanoseconds is None or nanoseconds >= UNANSWERED_NS else nanoseconds / 1e6


def _table(one: Distribution | None) -> dict[str, Any] | None:
    if one is None:
        return None
    shares = {f"p{share * 100:g}": _ms(value) for share, value in one.percentiles.items()}
    return {
        "min": _ms(one.least),
        "mean": _ms(one.mean),
        "max": _ms(one.most),
        **shares,
        "over_limit": one.over,
        "count": one.count,
    }


def _share(one: Share) -> dict[str, float]:
    return asdict(one) | {"attainment": one.attainment}
