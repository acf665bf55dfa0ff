"""What does a gateway tell the autoscaler every second, and how is it written?

One key per gateway process with a short expiry, holding one JSON document: counters since the
process began (so that a reader who misses a second loses nothing), and gauges of now. A reader
takes differences of two documents of the same `epoch`.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from redis.asyncio import Redis

PREFIX = "sluice:signals:"
EVERY_S = 1.0
EXPIRY_S = 10.0
VERSION = 1
_MOST_TENANTS = 64
OTHERS = "…"


@dataclass(slots=True)
class Counters:
    """What came from one tenant in one class for one model, since the gateway began.

    `offered` calls of any outcome, refused ones too; `offered_work_s` their token work in
    GPU-seconds as estimated on arrival; `done_work_s` the work of those that ended, by the tokens
    that were counted, and `estimated_work_s` what had been estimated for the same ones. `kept` and
    `broken` promises; a refusal is broken.
    """

    offered: int = 0
    refused: int = 0
    offered_work_s: float = 0.0
    done_work_s: float = 0.0
    estimated_work_s: float = 0.0
    kept: int = 0
    broken: int = 0

    def plus(self, other: "Counters") -> "Counters":
        """Add two."""
        return Counters(*(a + b for a, b in zip(_values(self), _values(other), strict=True)))

    def since(self, earlier: "Counters | None") -> "Counters":
        """Give what was added since an earlier reading; all of it without one."""
        if earlier is None:
            return self
        pairs = zip(_values(self), _values(earlier), strict=True)
        return Counters(*(max(a - b, 0) for a, b in pairs))


@dataclass(slots=True)
class Gauges:
    """A class of a model now: calls in flight and those that wait.

    `running_work_s` is what is left of those in flight; `oldest_at` and `first_deadline_at` are
    Unix instants of those that wait, 0 while nobody does.
    """

    running: int = 0
    running_work_s: float = 0.0
    waiting: int = 0
    waiting_work_s: float = 0.0
    oldest_at: float = 0.0
    first_deadline_at: float = 0.0


Key = tuple[str, str, str]  # model, class, tenant


@dataclass(frozen=True, slots=True)
class Signal:
    """One gateway's document: `at` and `epoch` (when it began) are Unix instants."""

    gateway: str
    at: float
    epoch: float
    counters: Mapping[Key, Counters] = field(default_factory=dict)
    gauges: Mapping[tuple[str, str], Gauges] = field(default_factory=dict)
    replicas: Mapping[str, int] = field(default_factory=dict)  # calls in flight per replica


def encode(signal: Signal) -> bytes:
    """Write a signal; the tenants beyond the 64 with the most work are summed up as one."""
    document = {
        "version": VERSION,
        "gateway": signal.gateway,
        "at": signal.at,
        "epoch": signal.epoch,
        "counters": [[*key, *_values(c)] for key, c in _bounded(signal.counters).items()],
        "gauges": [[*key, asdict(g)] for key, g in signal.gauges.items()],
        "replicas": dict(signal.replicas),
    }
    return json.dumps(document, separators=(",", ":")).encode()


def decode(raw: bytes) -> Signal | None:
    """Read a signal; None where it is of another version or broken."""
    try:
        document = json.loads(raw)
        if document["version"] != VERSION:
            return None
        return Signal(
            str(document["gateway"]),
            float(document["at"]),
            float(document["epoch"]),
            {(m, c, t): Counters(*rest) for m, c, t, *rest in document["counters"]},
            {(m, c): Gauges(**gauges) for m, c, gauges in document["gauges"]},
            {str(id_): int(count) for id_, count in document.get("replicas", {}).items()},
        )
    except (ValueError, TypeError, KeyError):
        return None


async def write(store: Redis, signal: Signal) -> None:
    """Publish a signal; it ends by itself when its gateway does. Raises RedisError."""
    await store.set(PREFIX + signal.gateway, encode(signal), px=int(EXPIRY_S * 1000))


async def read(store: Redis) -> list[Signal]:
    """Read the signals of all gateways that live; raises RedisError."""
    keys = [key async for key in store.scan_iter(match=PREFIX + "*", count=1000)]
    if not keys:
        return []
    answers: list[Any] = await store.mget(keys)
    found = (decode(raw) for raw in answers if raw is not None)
    return [signal for signal in found if signal is not None]


def _values(counters: Counters) -> tuple[Any, ...]:
    return (
        counters.offered,
        counters.refused,
        counters.offered_work_s,
        counters.done_work_s,
        counters.estimated_work_s,
        counters.kept,
        counters.broken,
    )


def _bounded(counters: Mapping[Key, Counters]) -> Mapping[Key, Counters]:
    """Keep the tenants with the most work by name."""
    work: dict[str, float] = {}
    for (_, _, tenant), each in counters.items():
        work[tenant] = work.get(tenant, 0.0) + each.offered_work_s
    if len(work) <= _MOST_TENANTS:
        return counters
    named = set(_heaviest(work))
    bounded: dict[Key, Counters] = {}
    for (model, class_name, tenant), each in counters.items():
        key = (model, class_name, tenant if tenant in named else OTHERS)
        bounded[key] = bounded[key].plus(each) if key in bounded else each
    return bounded


def _heaviest(work: Mapping[str, float]) -> Iterable[str]:
    return sorted(work, key=lambda tenant: (-work[tenant], tenant))[: _MOST_TENANTS - 1]
