"""What is out there: replicas, what they last said of themselves, and what we think of them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType


class EngineKind(StrEnum):
    """The software in a replica."""

    SGLANG = "sglang"
    DIFFUSION = "diffusion"
    EMBEDDED = "embedded"
    SIMULATED = "simulated"


@dataclass(frozen=True, slots=True)
class Replica:
    """One serving process, as its lease in the registry describes it.

    `served_name` is the model's name inside the engine where it differs from the public one.
    `max_running` is how many calls may run on it at once (0: what its load reports say).
    """

    id: str
    model: str
    url: str
    engine: EngineKind = EngineKind.SGLANG
    hardware: str = "mi355x"
    site: str = "local"
    served_name: str | None = None
    max_running: int = 0
    api_key: str | None = field(default=None, repr=False)

    @property
    def engine_model(self) -> str:
        """The model's name inside the engine."""
        return self.served_name or self.model


@dataclass(frozen=True, slots=True)
class Load:
    """What a replica reports of itself (`GET /v1/loads`, summed over its DP ranks).

    `at` is the instant of the report in Unix seconds by the replica's clock; `seen_at` by ours:
    age is judged by `seen_at` alone. Cumulative counters start with the engine's process;
    `decode` is None where the engine does not keep them.
    """

    at: float
    seen_at: float
    running: int
    waiting: int
    waiting_uncached_tokens: int = 0
    used_tokens: int = 0
    total_tokens: int = 0
    max_total_tokens: int = 0
    max_running: int = 0
    prefill_uncached_tokens: int = 0
    prefill_busy_us: int = 0
    gen_throughput_per_s: float = 0.0
    cache_hit_rate: float = 0.0
    decode: "DecodeMoments | None" = None


@dataclass(frozen=True, slots=True)
class DecodeMoments:
    """Sums over an engine's decode steps since it started: b sequences in t microseconds each.

    `generated` is how many tokens came out in all.
    """

    steps: float
    b: float
    t_us: float
    bb: float
    bt_us: float
    generated: float


class HealthState(StrEnum):
    """May calls be routed to a replica?"""

    UNKNOWN = "unknown"  # never probed: not routed to
    READY = "ready"  # routed to
    NOT_READY = "not_ready"  # it says 503 on /ready: starting, paused or draining
    EJECTED = "ejected"  # it does not answer, or fails calls; probed until it recovers
    DRAINING = "draining"  # an operator or its own lease says: finish, take nothing new


@dataclass(frozen=True, slots=True)
class Health:
    """The state of one replica, since when, and why."""

    state: HealthState = HealthState.UNKNOWN
    since_at: float = 0.0
    reason: str = ""
    strikes: int = 0


@dataclass(frozen=True, slots=True)
class Standing:
    """A replica with what is known of it; `load` is None until it has reported."""

    replica: Replica
    health: Health = Health()
    load: Load | None = None

    @property
    def is_routable(self) -> bool:
        """Whether new calls may go there."""
        return self.health.state is HealthState.READY


@dataclass(frozen=True, slots=True)
class Pool:
    """The replicas of one model, in the order of their ids.

    `renames`: an engine of the pool knows the model by another name; `engines` are their kinds.
    """

    model: str
    standings: tuple[Standing, ...] = ()
    renames: bool = field(init=False, repr=False, compare=False)
    engines: frozenset[EngineKind] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Find out once what every call asks."""
        replicas = [standing.replica for standing in self.standings]
        object.__setattr__(self, "renames", any(each.served_name for each in replicas))
        object.__setattr__(self, "engines", frozenset([each.engine for each in replicas]))

    @property
    def routable(self) -> tuple[Standing, ...]:
        """Those that new calls may go to."""
        return tuple(s for s in self.standings if s.is_routable)


@dataclass(frozen=True, slots=True)
class Fleet:
    """All pools by model: one immutable snapshot, swapped whole; `at` is its Unix instant."""

    pools: Mapping[str, Pool] = field(default_factory=lambda: MappingProxyType({}))
    at: float = 0.0
    _by_id: dict[str, Standing] = field(default_factory=dict, init=False, repr=False, compare=False)

    def pool(self, model: str) -> Pool:
        """The pool of a model; an empty one where nothing serves it."""
        return self.pools.get(model) or Pool(model)

    def standing(self, replica_id: str) -> Standing | None:
        """What is known of one replica."""
        known = self._by_id
        if not known:  # made when first asked: snapshots come often, and not each is asked
            for pool in self.pools.values():
                known.update({each.replica.id: each for each in pool.standings})
        return known.get(replica_id)
