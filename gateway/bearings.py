"""What do those parts share that decide where calls go, and what have they learnt?"""

from collections.abc import Mapping
from dataclasses import dataclass

from backends.clock import Clock
from backends.registry import Registry
from backends.slo import Class
from gateway.estimates import Estimates
from gateway.pools import Pools
from gateway.queue.ledger import Ledger


@dataclass(frozen=True, slots=True)
class Bearings:
    """One per gateway process, made by `Steering` for itself and for what it consists of.

    `registry` says which replicas there are, `ledger` what they hold and who waits, `classes` what
    was promised. `estimates` and `pools` are what calls have taught (`lessons.py`): how long calls
    are, and how fast each replica is.
    """

    registry: Registry
    ledger: Ledger
    clock: Clock
    classes: Mapping[str, Class]
    estimates: Estimates
    pools: Pools
