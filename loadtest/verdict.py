"""Is a run VALID, and if not, why?

Pure: a log and rules in, a judgement out. The tests are LoadGen's (loadgen/results.cc:
PerfConstraintsMet, MinDurationMet, EarlyStopping, LogSummary); what we add beyond it is marked in
each reason's `source`.
"""

from __future__ import annotations

from collections import Counter

import numpy as np

from loadtest import duration as duration_of
from loadtest import early_stopping, figures
from loadtest.duration import NS
from loadtest.figures import Distribution
from loadtest.judgement import EarlyStopping, Judgement, Reason, Verdict
from loadtest.records import Log, Outcome
from loadtest.rules import Mode, Rules


def judge(
    log: Log, rules: Rules, *, offered: int | None = None, interrupted: bool = False
) -> Judgement:
    """Judge a run from its per-query log.

    `offered`: how many queries the schedule holds, when more than the log has. `interrupted`: the
    run was stopped before its schedule ended; the verdict is then INCOMPLETE whatever the figures
    say.
    """
    latency, ttft, tpot = _latencies(log, rules)
    lateness = figures.distribution(figures.lateness(log), 0.99, rules.late_p99_ns)
    duration_s, _ = duration_of.duration(log, rules)
    stopping = _early_stopping(rules, latency, ttft, tpot)
    estimate, estimate99, discarded, too_few = _single_stream(log, rules)
    reasons = [
        *_constraints(rules, latency, ttft, tpot),
        *_too_short(log, rules),
        *(_stopping_reason(one) for one in stopping if not one.met),
        *too_few,
        *_ours(log, rules, lateness, offered),
    ]
    window_s = duration_of.window_s(log, rules)
    tokens = int(figures.counted_tokens(log).sum())
    failed = [r.what for r in reasons]
    return Judgement(
        verdict=_verdict(reasons, interrupted=interrupted),
        reasons=tuple(reasons),
        warnings=_warnings(log, rules),
        rules=rules,
        queries=len(log),
        answered=int(log.ok.sum()),
        outcomes=_outcomes(log),
        tokens=tokens,
        duration_s=duration_s,
        window_s=window_s,
        latency=latency,
        ttft=ttft,
        tpot=tpot,
        lateness=lateness,
        early_stopping=tuple(stopping),
        estimate_ns=estimate,
        estimate99_ns=estimate99,
        discarded=discarded,
        completed_samples_per_s=_rate(_samples(log, rules), window_s),
        completed_tokens_per_s=_rate(tokens, window_s),
        scheduled_samples_per_s=_rate(len(log) - 1, duration_of.last_scheduled_s(log)),
        perf_constraints_met=not any(w in failed for w in ("ttft", "tpot", "latency")),
        min_duration_met="min_duration" not in failed,
        min_queries_met="min_queries" not in failed,
        early_stopping_met=all(one.met for one in stopping) and not too_few,
        effective_percentile=early_stopping.effective_percentile(len(log), rules.percentile),
        least_queries=early_stopping.needed(
            1 if rules.mode is Mode.SINGLE_STREAM else 0, rules.percentile
        ),
    )


def _latencies(
    log: Log, rules: Rules
) -> tuple[Distribution | None, Distribution | None, Distribution | None]:
    """Give the whole latency, that of the first token and that per token."""
    latency = figures.distribution(figures.latency(log), rules.percentile, rules.latency_ns)
    if not rules.token_latencies:
        return latency, None, None
    ttft = figures.distribution(figures.first_token(log), rules.percentile, rules.ttft_ns)
    tpot = figures.distribution(figures.per_token(log), rules.percentile, rules.tpot_ns)
    return latency, ttft, tpot


def _too_short(log: Log, rules: Rules) -> list[Reason]:
    """Say in which ways there was too little of the run."""
    found = []
    duration_s, enough = duration_of.duration(log, rules)
    if not enough:
        text = f"{duration_s:.3f} s of {rules.min_duration_ns / NS:.3f} s"
        found.append(Reason("loadgen", "min_duration", f"minimum duration not met: {text}"))
    if len(log) < rules.min_queries:
        text = f"minimum query count not met: {len(log)} of {rules.min_queries}"
        found.append(Reason("loadgen", "min_queries", text))
    return found


def _verdict(reasons: list[Reason], *, interrupted: bool) -> Verdict:
    if interrupted:
        return Verdict.INCOMPLETE
    return Verdict.INVALID if reasons else Verdict.VALID


def _constraints(
    rules: Rules, latency: Distribution | None, ttft: Distribution | None, tpot: Distribution | None
) -> list[Reason]:
    """Compare each percentile with its limit (equal passes)."""
    if rules.mode is not Mode.SERVER:
        return []
    checks = (
        ("ttft", "TTFT", ttft, rules.ttft_ns),
        ("tpot", "TPOT", tpot, rules.tpot_ns),
        ("latency", "latency", latency, rules.latency_ns),
    )
    return [
        Reason("loadgen", what, _over_text(name, rules.percentile, one, limit))
        for what, name, one, limit in checks
        if limit is not None and one is not None and one.target > limit
    ]


def _over_text(name: str, percentile: float, one: Distribution, limit: int) -> str:
    seen = f"{one.target / 1e6:.3f} ms" if one.finite else "unanswered"
    return f"p{percentile * 100:g} {name} is {seen}, over the limit of {limit / 1e6:g} ms"


def _early_stopping(
    rules: Rules, latency: Distribution | None, ttft: Distribution | None, tpot: Distribution | None
) -> list[EarlyStopping]:
    if rules.mode is not Mode.SERVER:
        return []
    pairs = [("tpot", tpot, rules.tpot_ns), ("ttft", ttft, rules.ttft_ns)]
    if not rules.token_latencies:
        pairs = [("latency", latency, rules.latency_ns)]
    results = []
    for what, one, limit in pairs:
        if one is None or limit is None:
            continue
        needed = early_stopping.needed(one.over, rules.percentile)
        results.append(EarlyStopping(what, one.count >= needed, one.count, one.over, needed))
    return results


def _stopping_reason(one: EarlyStopping) -> Reason:
    name = one.what if one.what == "latency" else one.what.upper()
    text = (
        f"early stopping on {name}: {one.over} of {one.count} queries over the limit need "
        f"{one.needed} queries; {one.more} more, all within it, would do"
    )
    return Reason("loadgen", f"early_stopping_{one.what}", text)


def _single_stream(log: Log, rules: Rules) -> tuple[int | None, int | None, int, list[Reason]]:
    """Estimate SingleStream's percentile: the latency left after the discards that early stopping
    allows.
    """
    if rules.mode is not Mode.SINGLE_STREAM:
        return None, None, 0, []
    ordered = np.sort(figures.latency(log))
    count = len(ordered)
    least = early_stopping.needed(1, rules.percentile)
    if count < least:
        text = f"early stopping needs at least {least} queries, the run has {count}"
        return None, None, 0, [Reason("loadgen", "early_stopping_latency", text)]
    allowed = early_stopping.most_over(count, rules.percentile)
    allowed99 = early_stopping.most_over(count, 0.99)
    estimate99 = int(ordered[count - allowed99]) if allowed99 >= 1 else None
    return int(ordered[count - allowed]), estimate99, allowed - 1, []


def _ours(
    log: Log, rules: Rules, lateness: Distribution | None, offered: int | None
) -> list[Reason]:
    """Find what LoadGen would never let happen: unanswered, short or altered streams, a late
    generator.
    """
    reasons = []
    bad = {name: n for name, n in _outcomes(log).items() if name != Outcome.OK.name.lower()}
    if bad:
        told = ", ".join(f"{n} {name}" for name, n in bad.items())
        text = f"{sum(bad.values())} of {len(log)} queries were not answered in full ({told})"
        reasons.append(Reason("sluice", "unanswered", text))
    missing = (offered or 0) - len(log)
    if missing > 0:
        reasons.append(
            Reason("sluice", "missing", f"{missing} of {offered} scheduled queries have no record")
        )
    if (
        rules.late_p99_ns is not None
        and lateness is not None
        and rules.mode is Mode.SERVER
        and lateness.target > rules.late_p99_ns
    ):
        text = (
            f"the load generator itself was late: p99 {lateness.target / 1e6:.1f} ms after the "
            f"schedule, bound {rules.late_p99_ns / 1e6:g} ms; use more workers or a quieter machine"
        )
        reasons.append(Reason("sluice", "late_generator", text))
    return reasons


def _warnings(log: Log, rules: Rules) -> tuple[str, ...]:
    if not rules.token_latencies:
        return ()
    tokens = log.column("tokens")
    told = []
    single = int((log.ok & (tokens == 1)).sum())
    if single:
        told.append(
            f"{single} responses of one token: LoadGen logs an error, counts no token and a "
            "negative TPOT; a submission with such a log is refused"
        )
    none = int((log.ok & (tokens == 0)).sum())
    if none:
        told.append(f"{none} responses without a single token")
    return tuple(told)


def _outcomes(log: Log) -> dict[str, int]:
    counts = Counter(log.column("outcome").tolist())
    return {Outcome(code).name.lower(): n for code, n in sorted(counts.items())}


def _samples(log: Log, rules: Rules) -> int:
    return len(log) if rules.mode is Mode.OFFLINE else len(log) - 1


def _rate(amount: float, seconds: float) -> float:
    return amount / seconds if seconds > 0 else 0.0
