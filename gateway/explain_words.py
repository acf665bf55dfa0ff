"""How is a decision record told to a person? Pure: a record in, lines out."""

from collections.abc import Iterator, Mapping
from typing import Any

_REASONS = {
    "queue_full": "as many calls wait as may",
    "ttft_out_of_reach": "its first token would come too late, even with a slot at once",
    "wait_too_long": "the work ahead of it would take longer than it can wait",
    "deadline_passed": "no slot came free in time",
    "slot_too_late": "a slot came, too late for its first token",
}


def told(record: Mapping[str, Any]) -> str:
    """Tell a record in words, one step a line."""
    return "\n".join(_lines(record))


def _lines(record: Mapping[str, Any]) -> Iterator[str]:
    how = "streaming" if record["stream"] else "unary"
    yield (
        f"{record['id']}: {how} {record['operation']} of tenant {record['tenant']} for "
        f"{record['model']}, class {record['class']}"
    )
    for step in record["steps"]:
        match step["kind"]:
            case "decision":
                yield from _decision(step)
            case "slot":
                late = "" if step["in_time"] else ", too late for its first token"
                if step.get("late_ms") is not None:
                    late = f"; served although {_time(step['late_ms'])} late"
                yield (
                    f"  got a slot on {step['replica']} after {_time(step['waited_ms'])}; "
                    f"predicted TTFT {_time(step['predicted_ttft_ms'])} from then on, "
                    f"TPOT {_time(step['predicted_tpot_ms'])}{late}"
                )
            case _:
                yield f"  {step['what']}"
    yield from _end(record)


def _decision(step: Mapping[str, Any]) -> Iterator[str]:
    limits, size = step["limits"], step["estimate"]
    yield (
        f"  as {step['class']} (TTFT {_time(limits['ttft_ms'])}, TPOT {_time(limits['tpot_ms'])}): "
        f"about {size['prompt_tokens']} prompt and {size['output_tokens']} output tokens"
    )
    yield from _place_in_line(step)
    match step["decision"]:
        case "admit":
            yield f"  admitted: a slot was free, with {_time(step['slack_ms'])} to spare"
        case "wait":
            yield (
                f"  waited: {step['waiting']} calls waited ({_time(step['ahead_work_ms'])} of work "
                f"ahead), a slot was expected in {_time(step['expected_wait_ms'])}, and it could "
                f"wait for {_time(step['at_most_ms'])}"
            )
        case "reject":
            reason = _REASONS.get(step["reason"], step["reason"])
            yield (
                f"  refused: {reason} (expected wait {_time(step['expected_wait_ms'])}, slack "
                f"{_time(step['slack_ms'])}); told to come back in {step['retry_after_s']:.0f} s"
            )
    for place, each in enumerate(step["candidates"], 1):
        yield _candidate(place, each)
    if "margin_ms" in step:
        yield f"     the first is ahead of the second by {_time(step['margin_ms'])}"
    more = step["offered"] - len(step["candidates"])
    if more > 0:
        yield f"     and {more} more replicas"
    if step["never"]:
        yield f"     {step['never']} replicas were out of the question"


def _place_in_line(step: Mapping[str, Any]) -> Iterator[str]:
    if step.get("late"):
        yield "  late: behind all calls that can be in time"
    if step["returns"]:
        yield "  it came back when it was told to, so it goes first"
    if not step["reachable"]:
        yield "  no replica could keep these limits even when idle: served as well as it goes"


def _candidate(place: int, each: Mapping[str, Any]) -> str:
    state = "holds" if each["holds"] else "full" if not each["has_room"] else "would miss"
    load = "never reported" if each["load_age_s"] is None else f"load {each['load_age_s']} s old"
    law = "law not learnt" if each["law_age_s"] is None else f"law {each['law_age_s']} s old"
    return (
        f"  {place}. {each['replica']} ({each['hardware']}, {each['site']}) {state}: score "
        f"{_time(each['score_ms'])}, TTFT {_time(each['ttft_ms'])}, TPOT {_time(each['tpot_ms'])}, "
        f"{each['running']} running, {each['ahead_tokens']} prompt tokens ahead, "
        f"{each['cached_tokens']} cached; {load}, {law}"
    )


def _end(record: Mapping[str, Any]) -> Iterator[str]:
    code = f" ({record['error_code']})" if record["error_code"] else ""
    where = f" by {record['replica']}" if record["replica"] else ""
    tries = f" in {record['attempts']} attempts" if record["attempts"] > 1 else ""
    yield f"  ended {record['outcome']}{code}{where}{tries}"
    if record["ttft_ms"] is not None:
        # An answer in one piece, or of one token, has no time between tokens.
        tpot = "none" if record["tpot_ms"] is None else _time(record["tpot_ms"])
        yield (
            f"  measured: TTFT {_time(record['ttft_ms'])}, TPOT {tpot}, "
            f"{record['prompt_tokens']} prompt tokens ({record['cached_tokens']} cached), "
            f"{record['completion_tokens']} output tokens"
        )


def _time(milliseconds: float | None) -> str:
    if milliseconds is None:
        return "no limit"
    if abs(milliseconds) >= 10_000:
        return f"{milliseconds / 1e3:.0f} s"
    return f"{milliseconds:.0f} ms" if abs(milliseconds) >= 10 else f"{milliseconds:.1f} ms"
