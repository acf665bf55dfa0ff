"""What was known of a call, what was decided, what came second, and how did it end?

A record only holds on to values that the deciders made; it is worded when somebody keeps it.
"""

from dataclasses import dataclass, field
from math import isfinite
from typing import Any

from msgspec import Struct

from gateway.admission import Admit, Decision, Outlook, Reject, Wait
from gateway.call import Call, Outcome, Receipt
from gateway.plans import Placed, Plan
from gateway.routing.router import Choice, Scored

SHOWN = 5  # candidates per decision


class Decided(Struct, frozen=True):
    """One decision with all that it rested on; `at` in Unix seconds."""

    at: float
    plan: Plan
    choice: Choice
    outlook: Outlook
    decision: Decision


@dataclass(slots=True)
class Record:
    """One call's decisions, in order, and what came of each."""

    call: Call
    steps: list[Decided | Placed | str] = field(default_factory=list)

    def decided(
        self, at: float, plan: Plan, choice: Choice, outlook: Outlook, decision: Decision
    ) -> None:
        """Note a decision of admission."""
        self.steps.append(Decided(at, plan, choice, outlook, decision))

    def placed(self, placed: Placed) -> None:
        """Note that a slot was given."""
        self.steps.append(placed)

    def happened(self, what: str) -> None:
        """Note in words what came of a step."""
        self.steps.append(what)

    @property
    def is_plain(self) -> bool:
        """Whether there is little to tell: one decision, one slot at once, no trouble."""
        return len(self.steps) <= 2 and not any(isinstance(s, str) for s in self.steps)

    def short(self, whole: bool) -> list[tuple[bytes, bytes]]:
        """Give the header lines for callers who may see them; not `whole`: what all may see."""
        lines: list[tuple[bytes, bytes]] = []
        for step in self.steps:
            if isinstance(step, Placed):
                lines = []
                if step.is_late:
                    lines.append((b"x-sluice-late-ms", b"%d" % (step.late_s * 1e3)))
                if not whole:
                    continue
                lines += [
                    (b"x-sluice-class", step.plan.promised.klass.name.encode()),
                    (b"x-sluice-replica", step.slot.replica_id.encode()),
                    (b"x-sluice-waited-ms", b"%d" % (step.slot.waited_s * 1e3)),
                ]
                if step.prediction is not None:
                    predicted_ms = b"%d" % (step.prediction.ttft_s * 1e3)
                    lines.append((b"x-sluice-predicted-ttft-ms", predicted_ms))
        return lines


def worded(record: Record, receipt: Receipt) -> dict[str, Any]:
    """Give a record as JSON can hold it; times in milliseconds, as on the wire."""
    call, usage = record.call, receipt.usage
    return {
        "id": call.id,
        "at": round(call.arrived_at, 3),
        "model": call.model,
        "operation": call.operation.value,
        "tenant": call.principal.tenant,
        "class": call.class_name,
        "stream": call.stream,
        "steps": [_step(step) for step in record.steps],
        "outcome": receipt.outcome.value,
        "status": receipt.status,
        "error_code": receipt.error_code,
        "replica": receipt.replica_id,
        "attempts": receipt.attempts,
        "late": receipt.late,
        "queued_ms": _ms(receipt.queued_s),
        "ttft_ms": _ms(receipt.ttft_s),
        "tpot_ms": _ms(receipt.tpot_s),
        "prompt_tokens": None if usage is None else usage.prompt_tokens,
        "completion_tokens": None if usage is None else usage.completion_tokens,
        "cached_tokens": None if usage is None else usage.cached_tokens,
    }


def went_badly(record: Record, receipt: Receipt) -> bool:
    """Whether somebody will probably ask about this call."""
    return receipt.outcome is not Outcome.OK or not record.is_plain


def _step(step: Decided | Placed | str) -> dict[str, Any]:
    match step:
        case str():
            return {"kind": "event", "what": step}
        case Placed():
            prediction = step.prediction
            return {
                "kind": "slot",
                "replica": step.slot.replica_id,
                "waited_ms": _ms(step.slot.waited_s),
                "predicted_ttft_ms": None if prediction is None else _ms(prediction.ttft_s),
                "predicted_tpot_ms": None if prediction is None else _ms(prediction.tpot_s),
                "in_time": step.is_in_time and not step.is_late,
                "late_ms": _ms(step.late_s) if step.is_late else None,
            }
        case Decided():
            return _decided(step)


def _decided(step: Decided) -> dict[str, Any]:
    plan, outlook, scored = step.plan, step.outlook, step.choice.scored
    targets = plan.targets
    found: dict[str, Any] = {
        "kind": "decision",
        "class": plan.promised.klass.name,
        "late": plan.missed is not None,
        "limits": {"ttft_ms": _ms(targets.ttft_s), "tpot_ms": _ms(targets.tpot_s)},
        "estimate": {
            "prompt_tokens": round(plan.size.prompt_tokens),
            "output_tokens": round(plan.size.output_tokens),
            "work_ms": _ms(plan.work_s),
        },
        "slack_ms": _ms(outlook.slack_s),
        "expected_wait_ms": _ms(outlook.expected_wait_s),
        "ahead_work_ms": _ms(outlook.ahead_s),
        "does_per_s": round(outlook.does_per_s, 4),
        "waiting": outlook.waiting,
        "reachable": outlook.reachable,
        "learnt": outlook.sure,
        "returns": plan.returns,
        "candidates": [_candidate(s, step.at) for s in scored[:SHOWN]],
        "looked_at": len(scored),
        "offered": len(step.choice.candidates),
        "never": len(step.choice.never),
    }
    if len(scored) > 1:
        found["margin_ms"] = _ms(scored[1].score_s - scored[0].score_s)
    match step.decision:
        case Admit():
            found["decision"] = "admit"
        case Wait(at_most_s):
            found |= {"decision": "wait", "at_most_ms": _ms(at_most_s)}
        case Reject(reason, retry_after_s):
            found |= {
                "decision": "reject",
                "reason": reason.value,
                "retry_after_s": round(retry_after_s, 1),
            }
    return found


def _candidate(scored: Scored, now: float) -> dict[str, Any]:
    prospect, prediction = scored.prospect, scored.prediction
    learnt_at = prospect.speed.at
    return {
        "replica": prospect.replica.id,
        "hardware": prospect.replica.hardware,
        "site": prospect.replica.site,
        "score_ms": _ms(scored.score_s),
        "ttft_ms": _ms(prediction.ttft_s),
        "tpot_ms": _ms(prediction.tpot_s),
        "running": prediction.running,
        "ahead_tokens": round(prediction.ahead_tokens),
        "cached_tokens": round(prediction.cached_tokens),
        "rtt_ms": _ms(prospect.rtt_s),
        "has_room": scored.has_room,
        "holds": scored.holds,
        "load_age_s": None if prospect.load_at is None else round(now - prospect.load_at, 2),
        "law_age_s": round(now - learnt_at, 2) if learnt_at else None,
    }


def _ms(seconds: float | None) -> float | None:
    if seconds is None or not isfinite(seconds):
        return None
    return round(seconds * 1e3, 2)
