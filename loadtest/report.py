"""What does a person see of a run: one page that needs no network?"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2

from loadtest import manifest, plots, results
from loadtest.results import Outcomes


def write(out: Path, found: Outcomes) -> Path:
    """Write report.html; give its path."""
    path = out / results.REPORT
    path.write_text(render(found), encoding="utf-8")
    return path


def render(found: Outcomes) -> str:
    """Render the page."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("loadtest", "pages"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["ms"] = milliseconds
    page = results.summary(found)
    drawn = [(caption, _named(svg, n)) for n, (caption, svg) in enumerate(plots.all_of(found))]
    return environment.get_template("report.html.jinja").render(
        page=page,
        plots=drawn,
        tables=_tables(page),
        fleet=manifest.fleet(page["manifest"]),
        version=(page["manifest"]["reported"].get("/version") or {}).get("version", ""),
        manifest=json.dumps(page["manifest"], indent=1),
        options=json.dumps(page["options"], indent=1),
        mlperf=results.mlperf_summary(found),
    )


def milliseconds(value: float | None) -> str:
    """Word a latency so that the table's twelve columns fit a page of 1,120 px; summary.json has
    all its digits.
    """
    if value is None:
        return "–"
    digits = 2 if value < 1_000 else 1 if value < 10_000 else 0
    return f"{value:,.{digits}f}"


def _tables(page: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any], float | None]]:
    limits = page["limits"]
    named = (
        ("TTFT", page["ttft_ms"], limits["ttft_ms"]),
        ("TPOT", page["tpot_ms"], limits["tpot_ms"]),
        ("Latency", page["latency_ms"], limits["latency_ms"]),
        ("Generator lateness", page["generator_lateness_ms"], None),
    )
    return [(name, table, limit) for name, table, limit in named if table is not None]


def _named(svg: str, number: int) -> str:
    """Keep ids of several drawings in one page apart."""
    return (
        svg.replace('id="', f'id="p{number}-')
        .replace('href="#', f'href="#p{number}-')
        .replace("url(#", f"url(#p{number}-")
    )
