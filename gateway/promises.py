"""Was a call's promise kept? What is counted here is what alerts and error budgets stand on."""

from backends.slo import Targets
from gateway.call import Outcome, Receipt

# Not ours to answer for: the caller's words were wrong, or the caller left.
_NOT_COUNTED = frozenset({Outcome.INVALID, Outcome.CALLER_LEFT})


def kept(receipt: Receipt, targets: Targets, duration_s: float) -> bool | None:
    """Say whether a call kept its class's limits; None where nothing was promised or owed.

    A refusal, a time-out and a failure break the promise, whatever their speed: otherwise a fleet
    that turns everybody away would look perfect. A unary answer shows no first token: it is late
    where it was served as late. `duration_s` is from arrival to the end.
    """
    limits = (targets.ttft_s, targets.tpot_s, targets.deadline_s)
    if receipt.outcome in _NOT_COUNTED or limits == (None, None, None):
        return None
    if receipt.outcome is not Outcome.OK:
        return False
    if receipt.late and not receipt.call.stream:
        return False
    ttft_s = receipt.ttft_s if receipt.call.stream else None
    pairs = ((ttft_s, limits[0]), (receipt.tpot_s, limits[1]), (duration_s, limits[2]))
    return all(took_s is None or limit_s is None or took_s <= limit_s for took_s, limit_s in pairs)
