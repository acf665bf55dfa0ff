"""Which replicas are possible for a call at all? One function per reason; pure."""

from collections.abc import Collection, Sequence

from backends.slo import RTT_SHARE, Targets
from gateway.routing.prospects import Prospect


def not_tried(prospects: Sequence[Prospect], excluded: Collection[str]) -> list[Prospect]:
    """Keep replicas that have not failed this call."""
    return [p for p in prospects if p.replica.id not in excluded]


def near_enough(prospects: Sequence[Prospect], targets: Targets) -> Sequence[Prospect]:
    """Keep replicas whose round trip leaves the TTFT limit its time; all, where none does.

    Nearest sites pass whatever their RTT; others pass where the RTT is within a quarter of the
    limit. So interactive calls stay at home while server and offline calls spill.
    """
    if targets.ttft_s is None or not prospects:
        return prospects
    within_s = max(min(p.rtt_s for p in prospects), RTT_SHARE * targets.ttft_s)
    return [p for p in prospects if p.rtt_s <= within_s]


def not_outliers(prospects: Sequence[Prospect], ejected: Collection[str]) -> Sequence[Prospect]:
    """Keep replicas that are not ejected for their latency; all, where all are."""
    return [p for p in prospects if p.replica.id not in ejected] or prospects
