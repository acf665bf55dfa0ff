"""Which replicas are looked at, and in which order are they offered? Pure but for the dice."""

from collections.abc import Sequence
from random import Random
from typing import TypeVar

LOOK_AT_ALL = 32  # replicas; above it a sample is scored
SAMPLE = 6
STALE_S = 3.0  # load reports older than this are not worth a full comparison

T = TypeVar("T")


def sample(items: Sequence[T], dice: Random, *, stale: bool) -> Sequence[T]:
    """Give those that are scored: all, or a few at random where many or stale.

    Power of d choices: with many replicas a sample's best is nearly the best of all, and gateways
    that decide on the same old reports do not all choose the same replica.
    """
    if len(items) <= SAMPLE or (len(items) <= LOOK_AT_ALL and not stale):
        return items
    # Faster than Random.sample, and alike where the sample is small beside the whole.
    count, found = len(items), set[int]()
    while len(found) < SAMPLE:
        found.add(int(dice.random() * count))
    return [items[i] for i in found]
