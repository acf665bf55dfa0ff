"""What becomes of a call whose first token would be late? It may be served last of all; pure."""

from collections.abc import Iterable
from dataclasses import replace
from math import inf

from msgspec import structs

from backends.slo import Class, Targets, WhenLate
from gateway.plans import Plan


def behind_all(plan: Plan, classes: Iterable[Class], now: float) -> Plan | None:
    """Plan to serve a call although its first token will be late; None: it is to be refused.

    Its promise is lost, so whoever can still be in time comes first: it goes behind the class that
    is served last, within the bounds of that class. The ledger gives those who are passed over a
    turn now and then. The limit of its time per token is still looked at, and it waits no longer
    than its own class lets it (`now` is monotonic).
    """
    served_as = served_last(plan.klass, plan.targets, classes, waited_s=now - plan.call.arrived)
    if served_as is None:
        return None
    return structs.replace(
        plan,
        klass=served_as,
        targets=Targets(tpot_s=plan.targets.tpot_s),
        first_token_by=inf,
        returns=False,
        missed=plan,
    )


def served_last(
    klass: Class, targets: Targets, classes: Iterable[Class], *, waited_s: float
) -> Class | None:
    """Give the class as which a late call is served: behind the last one, with what is left of its
    own patience after `waited_s`. None where it is to be refused, or has no first token to miss.
    """
    patience_s = klass.patience_s - waited_s
    if klass.when_late is WhenLate.REFUSE or targets.ttft_s is None or patience_s <= 0.0:
        return None
    last = max(classes, key=lambda each: each.rank)
    return replace(
        last,
        rank=last.rank + 1,
        patience_s=patience_s,
        demote_to=None,
        hedges=False,
        when_late=WhenLate.REFUSE,
    )
