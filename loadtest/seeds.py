"""Which seeds make a run repeatable, by the name of the round that published them?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True, slots=True)
class Seeds:
    """The three seeds of a LoadGen run: load order, sample order and arrivals."""

    name: str
    load_order: int
    sample_order: int
    arrivals: int


ROUNDS: Mapping[str, Seeds] = MappingProxyType(
    {
        # mlcommons/inference, loadgen/mlperf.conf of LoadGen 6.0.10.
        "v6.0": Seeds("v6.0", 2465351861681999779, 14276810075590677512, 3936089224930324775),
        # The same file from 2026-07-02 on.
        "v6.1": Seeds("v6.1", 2085463073848966840, 2747215439041700203, 16159082839903944936),
    }
)


def named(name: str) -> Seeds:
    """Give the seeds of a round, or one's own: any integer seeds all three generators.

    Raises ValueError, with the known names, for anything else.
    """
    if name in ROUNDS:
        return ROUNDS[name]
    try:
        own = int(name, 0)
    except ValueError:
        known = ", ".join(ROUNDS)
        raise ValueError(f"unknown seed {name!r}: give {known} or an integer") from None
    if own < 0:
        raise ValueError(f"a seed is not negative: {own}")
    return Seeds(name, own, own + 1, own + 2)
