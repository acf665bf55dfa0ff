"""How long did a run last, by the instants that LoadGen looks at?"""

from __future__ import annotations

from loadtest.records import Log
from loadtest.rules import Mode, Rules

NS = 1_000_000_000


def last_scheduled_s(log: Log) -> float:
    """Give the instant at which the last query was to be sent."""
    return float(log.column("scheduled")[-1]) / NS if len(log) else 0.0


def duration(log: Log, rules: Rules) -> tuple[float, bool]:
    """Give the duration that MinDurationMet looks at, and whether it is enough."""
    if len(log) == 0:
        return 0.0, False
    if rules.mode is Mode.OFFLINE:
        reached = int(log.column("done").max())
    else:
        reached = int(log.column("scheduled" if rules.mode is Mode.SERVER else "sent")[-1])
    return reached / NS, reached >= rules.min_duration_ns


def window_s(log: Log, rules: Rules) -> float:
    """Give T: start to completion of the last-scheduled query; Offline: to the last completion."""
    if len(log) == 0:
        return 0.0
    done = log.column("done")
    if rules.mode is Mode.OFFLINE:
        return max(0.0, float(done.max()) / NS)
    if rules.mode is Mode.SINGLE_STREAM:
        return float(log.column("sent")[-1]) / NS
    last = int(done[-1])
    return float(last if last >= 0 else int(done.max())) / NS
