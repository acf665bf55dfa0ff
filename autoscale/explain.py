"""Why were there so many replicas at that moment? One decision, told to a person."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

_GUARDS = {
    "forecast": "the forecast's quantile",
    "queue": "calls were waiting, so it acted at once",
    "backlog": "calls waited although the forecast had enough: all that is ready was busy",
    "steady": "the difference was not worth an action yet",
    "hold": "what the next cold starts are expected to need is kept",
    "record": "too little was seen yet to take anything away",
    "blind": "signals were missing or stale, so nothing was taken away",
    "step": "one step down is bounded",
    "floor": "the least number and the spare units",
    "budget": "the budget of units",
    "stuck": "a start took too long and was given up",
    "near": "calls that may not go to every kind of hardware lacked units",
    "trade": "a cheaper kind of hardware takes over what runs",
    "swap": "a unit changes its model: calls lack it, or jobs can use it",
    "deadline": "deferrable work would have missed its deadline",
    "wake": "somebody called and nothing was there",
    "idle": "nobody had called for long",
    "paused": "an operator had paused the autoscaler",
}


def told(record: Mapping[str, Any]) -> str:
    """Write a journal entry as a few lines."""
    signal, forecast = record["signal"], record["forecast"]
    at = datetime.fromtimestamp(float(record["at"]), UTC).isoformat(timespec="seconds")
    lines = [
        f"{at}  {record['pool']}: {_action(record)}  [{record['done']}]",
        f"  signal    {signal['level']:.2f} units of work; {signal['ready']} ready,"
        f" {signal['starting']} starting, {signal['draining']} draining, {signal['stuck']} stuck;"
        f" {signal['waiting_s']:.1f} s of work waiting" + (" (BLIND)" if signal["blind"] else ""),
        f"  forecast  {forecast['wanted']:.2f} units at quantile {forecast['quantile']:.3f} in"
        f" {forecast['horizon_s']:.0f} s; {forecast['held']:.2f} not to be dropped;"
        f" season trusted {forecast['season_trust']:.0%}{_by_record(forecast)}",
        f"  price     a miss costs {forecast['price']:.1f} times running; error budget"
        f" {forecast['budget_spent']:+.0%} of plan",
        f"  bound by  {record['guard']}: {_GUARDS.get(record['guard'], '')}",
    ]
    lines += [_kind(each) for each in record.get("kinds", ())]
    chosen = next((a for a in record["alternatives"] if a["units"] == record["target"]), None)
    for other in record["alternatives"]:
        if chosen is None or other is chosen:
            continue
        more = other["cost_s"] - chosen["cost_s"]
        lines.append(
            f"  instead   {other['units']} units: {more:+.0f} unit-seconds per hour"
            f" ({other['misses_s']:.1f} of misses)"
        )
    return "\n".join(lines)


def _by_record(forecast: Mapping[str, Any]) -> str:
    bursts = forecast.get("by_record")  # entries from before it was told have none
    return "; bursts come and go, so these are quantiles of the last hour" if bursts else ""


def _action(record: Mapping[str, Any]) -> str:
    kinds = record.get("kinds", ())
    first = f" of {kinds[0]['name']}'s worth" if kinds else ""
    return f"{_done(record)} -> {record['target']} units{first}"


def _kind(kind: Mapping[str, Any]) -> str:
    """Tell what is done with one of several kinds, and why."""
    return (
        f"  kind      {kind['name']} ({kind['hardware']}): {_done(kind)}; {kind['serving']} ready,"
        f" {kind['starting']} starting, {kind['draining']} draining, {kind['stuck']} stuck;"
        f" a unit is worth {kind['worth']:.2f}, {kind['price']:.2f} each; {kind['why']}"
    )


def _done(record: Mapping[str, Any]) -> str:
    parts = [
        f"{word} {record[word]}" for word in ("start", "cancel", "drain", "give_up") if record[word]
    ]
    if record.get("ended"):
        parts.append(f"end {record['ended']} that failed or answered no more")
    return ", ".join(parts) or "stay"
