"""How does a run look? Plots as SVG text, to stand in a page that needs nothing else."""

from __future__ import annotations

import io
import re
from typing import Any

import numpy as np

from loadtest import attainment, figures
from loadtest.records import Column, Log
from loadtest.results import Outcomes

NS = 1_000_000_000
_BLUE, _ORANGE, _RED, _GREY = "#2563eb", "#ea8a00", "#d0312d", "#8a94a6"


def all_of(found: Outcomes) -> list[tuple[str, str]]:
    """Draw every plot that the run has data for: (caption, svg)."""
    rules = found.judgement.rules
    log = found.log
    if len(log) == 0:
        return []
    drawn = [("Offered and served, per second", rates(log))]
    if rules.token_latencies:
        ttft, tpot = figures.first_token(log), figures.per_token(log)
        share = rules.percentile
        drawn.append(("Time to first token", distribution(ttft, rules.ttft_ns, share, "TTFT")))
        drawn.append(("Time per output token", distribution(tpot, rules.tpot_ns, share, "TPOT")))
        drawn.append(("TTFT over the run", over_time(log, ttft, rules.ttft_ns, "TTFT")))
        drawn.append(("TPOT over the run", over_time(log, tpot, rules.tpot_ns, "TPOT")))
    latency = figures.latency(log)
    drawn.append(
        ("Latency of whole answers", distribution(latency, rules.latency_ns, rules.percentile, ""))
    )
    drawn.append(("Attainment over time, the worst minute shaded", attained(found)))
    drawn.append(("Lateness of the generator", lateness(log, rules.late_p99_ns)))
    return drawn


def rates(log: Log) -> str:
    """Draw arrivals as scheduled and completions, in bins of about 1/120 of the run."""
    scheduled = log.column("scheduled") / NS
    done = log.column("done")[log.ok] / NS
    end = max(float(scheduled.max()), float(done.max(initial=0)), 1.0)
    bin_s = max(1.0, round(end / 120))
    edges = np.arange(0, end + bin_s, bin_s)
    figure, axes = _figure()
    for values, name, colour in ((scheduled, "offered", _GREY), (done, "served", _BLUE)):
        counts, _ = np.histogram(values, edges)
        axes.stairs(counts / bin_s, edges, label=name, color=colour, linewidth=1.4)
    axes.set_xlabel("seconds from the start")
    axes.set_ylabel("queries per second")
    axes.set_ylim(bottom=0)
    _legend(axes)
    return _svg(figure)


def distribution(values: Column, limit_ns: int | None, share: float, name: str) -> str:
    """Draw a histogram with the percentile that counts and the limit."""
    known = values[(values < figures.UNANSWERED_NS) & (values > 0)] / 1e6
    figure, axes = _figure()
    if len(known):
        low, high = float(known.min()), float(known.max())
        if limit_ns is not None:
            low, high = min(low, limit_ns / 1e6), max(high, limit_ns / 1e6)
        low, high = low * 0.9, high * 1.1 + 1e-6
        wide = high / low > 20
        edges = np.geomspace(low, high, 70) if wide else np.linspace(low, high, 70)
        axes.hist(known, edges, color=_BLUE, alpha=0.75)
        if wide:
            axes.set_xscale("log")
            _logarithmic(axes.xaxis)
        ordered = np.sort(values)
        at = int(ordered[int(len(ordered) * share)])
        if at < figures.UNANSWERED_NS:
            label = f"p{share * 100:g} = {_ms(at)} ms"
            axes.axvline(at / 1e6, color=_ORANGE, label=label, linewidth=1.6)
    if limit_ns is not None:
        label = f"limit {limit_ns / 1e6:g} ms"
        axes.axvline(limit_ns / 1e6, color=_RED, linestyle="--", label=label, linewidth=1.6)
    axes.set_xlabel(f"{name} (ms)".strip())
    axes.set_ylabel("queries")
    if axes.get_legend_handles_labels()[0]:
        _legend(axes)
    return _svg(figure)


def over_time(log: Log, values: Column, limit_ns: int | None, name: str) -> str:
    """Draw p50 and p99 by scheduled start."""
    scheduled = log.column("scheduled") / NS
    end = max(float(scheduled.max()), 1.0)
    bin_s = max(2.0, round(end / 60))
    which = (scheduled // bin_s).astype(np.int64)
    figure, axes = _figure()
    starts, middle, upper = [], [], []
    for one in np.unique(which).tolist():
        part = np.sort(values[(which == one) & (values < figures.UNANSWERED_NS)])
        if len(part):
            starts.append((one + 0.5) * bin_s)
            middle.append(part[len(part) // 2] / 1e6)
            upper.append(part[int(len(part) * 0.99)] / 1e6)
    axes.plot(starts, middle, color=_BLUE, label="p50", linewidth=1.4)
    axes.plot(starts, upper, color=_ORANGE, label="p99", linewidth=1.4)
    if limit_ns is not None:
        axes.axhline(limit_ns / 1e6, color=_RED, linestyle="--", label="limit", linewidth=1.2)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("seconds from the start")
    axes.set_ylabel(f"{name} (ms)")
    _legend(axes)
    return _svg(figure)


def attained(found: Outcomes) -> str:
    """Draw the attained share of the queries offered in each bin."""
    log = found.log
    good = attainment.attained(log, found.judgement.rules)
    end = max(1.0, float(log.column("scheduled").max()) / NS)
    starts, share = attainment.over_time(log, good, max(1.0, round(end / 100)))
    figure, axes = _figure()
    axes.plot(starts, share * 100, color=_BLUE, linewidth=1.4, drawstyle="steps-post")
    percentile = found.judgement.rules.percentile * 100
    axes.axhline(percentile, color=_RED, linestyle="--", linewidth=1.2, label=f"{percentile:g} %")
    worst = found.attainment.worst_minute
    if worst is not None:
        label = f"worst minute: {worst.attained} of {worst.offered}"
        stop = min(worst.start_s + 60, end)
        axes.axvspan(worst.start_s, stop, color=_ORANGE, alpha=0.2, label=label)
    axes.set_ylim(top=101)
    axes.set_xlabel("seconds from the start")
    axes.set_ylabel("attained (%)")
    _legend(axes)
    return _svg(figure)


def lateness(log: Log, bound_ns: int | None) -> str:
    """Draw how late the generator was, as the share of queries later than x."""
    late = np.sort(np.maximum(figures.lateness(log), 1_000)) / 1e6
    figure, axes = _figure()
    if len(late):
        axes.plot(late, 100 * (1 - np.arange(len(late)) / len(late)), color=_BLUE, linewidth=1.4)
        axes.set_xscale("log")
        axes.set_yscale("log")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(lambda value, _: f"{value:g}")
    if bound_ns is not None:
        label = f"bound for p99: {bound_ns / 1e6:g} ms"
        axes.axvline(bound_ns / 1e6, color=_RED, linestyle="--", label=label, linewidth=1.2)
        axes.axhline(1, color=_GREY, linewidth=0.8)
        _legend(axes)
    axes.set_xlabel("sent later than (ms)")
    axes.set_ylabel("share of queries (%)")
    return _svg(figure)


def _legend(axes: Any) -> None:
    """Put the legend above the axes, where it covers nothing."""
    axes.legend(frameon=False, loc="lower right", bbox_to_anchor=(1, 0.98), ncols=3, borderpad=0)


def _logarithmic(axis: Any) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=12))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def _figure() -> tuple[Any, Any]:
    # Loaded here: it takes half a second that a run should not wait for.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 2.9), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(visible=True, alpha=0.25)
    return figure, axes


def _svg(figure: Any) -> str:
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    text = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "font.size": 9}):
        canvas: Any = FigureCanvasSVG(figure)
        canvas.print_svg(text, metadata={"Date": None, "Creator": None})
    whole = text.getvalue()
    drawing = whole[whole.index("<svg") :]
    return re.sub(r"\s*<metadata>.*?</metadata>", "", drawing, flags=re.DOTALL)


def _ms(value_ns: float) -> str:
    """Write milliseconds with four figures, large ones in full."""
    value = value_ns / 1e6
    return f"{value:,.0f}" if value >= 10_000.0 else f"{value:.4g}"
