"""What would LoadGen's mlperf_log_summary.txt say of a judgement?

Follows the text of LoadGen 6.0.10 line by line, so that tools which read such files can read ours;
what LoadGen does not know stands in a section of its own at the end.
"""

from __future__ import annotations

from collections.abc import Mapping

from loadtest.figures import PERCENTILES, Distribution
from loadtest.judgement import EarlyStopping, Judgement
from loadtest.rules import Mode

_LINE = "=" * 48


def render(
    judgement: Judgement, *, name: str, parameters: Mapping[str, object], notes: list[str]
) -> str:
    """Write the summary. `parameters` are the settings that were used, `notes` what is ours."""
    lines = [_LINE, "MLPerf Results Summary", _LINE, f"SUT name : {name}"]
    lines += [f"Scenario : {judgement.rules.mode}", "Mode     : PerformanceOnly"]
    lines += _headline(judgement)
    lines += _verdict(judgement)
    lines += _stopping(judgement)
    lines += ["", _LINE, "Additional Stats", _LINE]
    lines += _statistics(judgement)
    lines += ["", _LINE, "Test Parameters Used", _LINE]
    lines += [f"{key} : {value}" for key, value in parameters.items()]
    if notes:
        lines += ["", _LINE, "Sluice", _LINE, *notes]
    return "\n".join(lines) + "\n"


def _headline(j: Judgement) -> list[str]:
    match j.rules.mode:
        case Mode.SINGLE_STREAM:
            target = j.latency.target if j.latency else 0
            return [f"{j.rules.percentile * 100:.1f}th percentile latency (ns) : {target}"]
        case Mode.OFFLINE:
            lines = [f"Samples per second: {j.completed_samples_per_s:g}"]
            if j.rules.token_latencies:
                lines.append(f"Tokens per second: {j.completed_tokens_per_s:g}")
            return lines
        case Mode.SERVER:
            lines = [f"Completed samples per second    : {j.completed_samples_per_s:.2f}"]
            if j.rules.token_latencies:
                lines.append(f"Completed tokens per second: {j.completed_tokens_per_s:.2f}")
            return lines


def _verdict(j: Judgement) -> list[str]:
    lines = [f"Result is : {j.verdict}"]
    if j.rules.mode is Mode.SERVER:
        lines.append(f"  Performance constraints satisfied : {_yes(j.perf_constraints_met)}")
    lines.append(f"  Min duration satisfied : {_yes(j.min_duration_met)}")
    lines.append(f"  Min queries satisfied : {_yes(j.min_queries_met)}")
    lines.append(f"  Early stopping satisfied: {_yes(j.early_stopping_met)}")
    if j.reasons:
        lines.append("Recommendations:")
        lines += [f" * {text}" for text in _recommendations(j)]
    return lines


def _recommendations(j: Judgement) -> list[str]:
    failed = {reason.what for reason in j.reasons}
    told = []
    if "ttft" in failed:
        told.append("TTFT constrain not met: Reduce target QPS to improve latency.")
    if "tpot" in failed:
        told.append("TPOT constrain not met: Reduce target QPS to improve latency.")
    if "latency" in failed:
        told.append("Reduce target QPS to improve latency.")
    if "min_duration" in failed:
        told.append(
            {
                Mode.SERVER: "Increase the target QPS so the loadgen pre-generates more queries.",
                Mode.OFFLINE: "Increase expected QPS so the loadgen pre-generates a larger "
                "(coalesced) query.",
                Mode.SINGLE_STREAM: "Decrease the expected latency so the loadgen pre-generates "
                "more queries.",
            }[j.rules.mode]
        )
    if "min_queries" in failed:
        told.append(
            "The test exited early, before enough queries were issued.\n"
            "   See the detailed log for why this may have occurred."
        )
    return told + [reason.text for reason in j.reasons if reason.source == "sluice"]


def _stopping(j: Judgement) -> list[str]:
    if j.rules.mode is Mode.OFFLINE:
        return []
    if j.rules.mode is Mode.SINGLE_STREAM:
        return ["Early Stopping Result:", *_single_stream(j)]
    by_name = {one.what: one for one in j.early_stopping}
    if not j.rules.token_latencies:
        return ["Early Stopping Result:", *_stopping_of(by_name.get("latency"))]
    tpot, ttft = by_name.get("tpot"), by_name.get("ttft")
    # LoadGen does not look at TTFT once TPOT has failed.
    skipped = tpot is not None and not tpot.met
    return [
        "TTFT Early Stopping Result:",
        *([""] if skipped else _stopping_of(ttft)),
        "TPOT Early Stopping Result:",
        *_stopping_of(tpot),
    ]


def _stopping_of(one: EarlyStopping | None) -> list[str]:
    if one is None:
        return [""]
    if one.met:
        return [" * Run successful."]
    return [
        " * Run unsuccessful.",
        f" * Processed {one.count} queries.",
        f" * Would need to run at least {one.more} more queries,",
        " with the run being successful if every additional",
        " query were under latency.",
    ]


def _single_stream(j: Judgement) -> list[str]:
    share = f"{j.rules.percentile * 100:.1f}"
    if j.estimate_ns is None:
        return [
            f" * Only processed {j.queries} queries.",
            f" * Need to process at least {j.least_queries} queries for early stopping.",
        ]
    lines = [
        f" * Processed at least {j.least_queries} queries ({j.queries}).",
        f" * Would discard {j.discarded} highest latency queries.",
        f" * Early stopping {share}th percentile estimate: {j.estimate_ns}",
    ]
    if j.estimate99_ns is not None:
        return [*lines, f" * Early stopping 99.0th percentile estimate: {j.estimate99_ns}"]
    return [
        *lines,
        " * Not enough queries processed for 99.0th percentile",
        " early stopping estimate (would need to process at",
        " least 662 total queries).",
    ]


def _statistics(j: Judgement) -> list[str]:
    lines: list[str] = []
    if j.rules.mode is Mode.SINGLE_STREAM:
        mean = j.latency.mean if j.latency else 0
        alone = 1e9 / mean if mean else 0.0
        lines += [
            f"QPS w/ loadgen overhead         : {j.completed_samples_per_s:.2f}",
            f"QPS w/o loadgen overhead        : {alone:.2f}",
            "",
        ]
    elif j.rules.mode is Mode.SERVER:
        lines.append(f"Scheduled samples per second : {j.scheduled_samples_per_s:.2f}")
    lines += _table(j.latency, "latency (ns)                ", "percentile latency (ns)   ")
    if not j.rules.token_latencies:
        return lines
    lines.append("")
    if j.rules.mode is Mode.OFFLINE:
        return lines
    if j.rules.mode is Mode.SERVER:
        rate = f"{j.completed_tokens_per_s:.2f}"
        lines.append(f"Completed tokens per second                 : {rate}")
    lines += _table(
        j.ttft,
        "First Token latency (ns)                ",
        "percentile first token latency (ns)   ",
    )
    lines.append("")
    lines += _table(
        j.tpot,
        "Time per Output Token (ns)                ",
        "percentile time to output token (ns)   ",
    )
    return lines


def _table(one: Distribution | None, name: str, share_name: str) -> list[str]:
    if one is None:
        return []
    lines = [f"Min {name}: {one.least}", f"Max {name}: {one.most}", f"Mean {name}: {one.mean}"]
    shares = [f"{p * 100:.2f} {share_name}: {one.percentiles[p]}" for p in PERCENTILES]
    return lines + shares


def _yes(met: bool) -> str:
    return "Yes" if met else "NO"
