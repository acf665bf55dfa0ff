"""Which replicas are possible for a call at all? One function per reason; pure."""

from collections.abc import Collection, Iterable

from backends.slo import Targets
from gateway.routing.prospects import Prospect

RTT_SHARE = 0.25  # of a TTFT limit that the way to another site may take


def not_tried(prospects: Iterable[Prospect], excluded: Collection[str]) -> list[Prospect]:
    """Keep replicas that have not failed this call."""
    if not excluded:
        return list(prospects)
    return [p for p in prospects if p.replica.id not in excluded]


def near_enough(prospects: list[Prospect], targets: Targets) -> list[Prospect]:
    """Keep replicas whose round trip leaves the TTFT limit its time; all, where none does.

    Nearest sites pass whatever their RTT; others pass where the RTT is within a quarter of the
    limit. So interactive calls stay at home while server and offline calls spill.
    """
    if targets.ttft_s is None or not prospects:
        return prospects
    within_s = max(min(p.rtt_s for p in prospects), RTT_SHARE * targets.ttft_s)
    return [p for p in prospects if p.rtt_s <= within_s]


def not_outliers(prospects: list[Prospect], ejected: Collection[str]) -> list[Prospect]:
    """Keep replicas that are not ejected for their latency; all, where all are."""
    kept = [p for p in prospects if p.replica.id not in ejected] if ejected else prospects
    return kept or prospects
