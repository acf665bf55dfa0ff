"""Who holds a slot on which replica, and who is next?

The order of those who wait: the class of least `rank` first; inside a class, tenants by fair
shares of `work`; inside a tenant, the earliest `first_token_by`. `gateway.queue.order` has the
rule.
"""

from collections.abc import Mapping
from math import inf
from typing import Protocol

from msgspec import Struct


class Cost(Struct, frozen=True, gc=False):
    """What calls take of a replica while they run there; prefill only until the first token."""

    sequences: int = 1
    kv_tokens: int = 0
    prefill_tokens: int = 0


class Candidate(Struct, frozen=True, gc=False):
    """A replica that a call may run on, and up to what it may be filled for the call's class.

    `sequences` and `kv_tokens` bound what runs there with the call itself; while calls of several
    classes run there the tightest bound of them holds. `prefill_tokens` bounds the prompt tokens
    in flight there, for this class alone. None: no bound. A call that is larger than a token
    bound may run where no other call holds such tokens. `spare` is how many of `sequences` the
    class leaves free there for others; that binds no other class.
    """

    replica_id: str
    sequences: int
    kv_tokens: int | None = None
    prefill_tokens: int | None = None
    spare: int = 0


class Ask(Struct, frozen=True, kw_only=True):
    """What a call asks of the ledger.

    candidates      in order of preference; a wait may end on any other replica of the model that
                    has been offered, but for those in `excluded`
    rank            of the class; lower is served first
    first_token_by  Unix seconds; the order inside a tenant
    tenant, weight  who shares inside a class, and this tenant's share there
    work_s          seconds of token work by the capacity law; the unit of fairness
    """

    call_id: str
    model: str
    candidates: tuple[Candidate, ...]
    rank: int = 0
    first_token_by: float = inf
    tenant: str = "default"
    weight: float = 1.0
    work_s: float = 1.0
    cost: Cost = Cost()
    excluded: frozenset[str] = frozenset()


class Slot(Struct, frozen=True):
    """A call's place on a replica, until it is released.

    `lease_id` names this grant among all gateways' grants: a call that tries a second replica has
    a second one. `granted_at` and `waited_s` are on the ledger's clock, in seconds.
    """

    call_id: str
    replica_id: str
    model: str
    lease_id: str
    rank: int
    cost: Cost
    work_s: float
    granted_at: float
    waited_s: float


class Backlog(Struct, frozen=True, gc=False):
    """Calls of one class that wait for a model, and their token work in seconds."""

    calls: int
    work_s: float


class Ledger(Protocol):
    """Slots and waiting calls. A slot is granted once, and given back once.

    What is read (`running` to `work_per_s`) spans all gateways, is at hand without waiting, and in
    a shared ledger is as old as the last answer of the store: at most about a second.
    """

    async def acquire(self, ask: Ask, *, within_s: float) -> Slot:
        """Take a slot on the first candidate with room, else wait.

        Raises TimeoutError after `within_s` seconds; a cancelled wait leaves nothing behind.
        """
        ...

    def first_token(self, slot: Slot) -> None:
        """Note that a call's first token is there, which frees its prefill tokens."""
        ...

    def release(self, slot: Slot) -> None:
        """Give a slot back, which hands it to the next waiting call; twice is the same as once."""
        ...

    def offer(
        self, model: str, candidates: tuple[Candidate, ...], *, rank: int | None = None
    ) -> None:
        """Tell which replicas of a model may be used now: waiting calls take what is free.

        `rank` None: these are all of them, with the bounds of every class whose own bounds have not
        been told; a replica that is missing takes no more calls. Else the bounds are those of
        calls of this rank, on replicas that may be used anyway. What an Ask's candidates say is
        remembered in the same way.
        """
        ...

    def running(self, replica_id: str) -> int:
        """How many sequences run on a replica."""
        ...

    def outstanding(self, replica_id: str) -> Cost:
        """What the calls on a replica hold of it."""
        ...

    def waiting(self, model: str) -> int:
        """How many calls wait for a model."""
        ...

    def backlog(self, model: str) -> Mapping[int, Backlog]:
        """Who waits for a model, by rank; ranks of which nobody waits are missing."""
        ...

    def drain_per_s(self, model: str) -> float:
        """How many slots of a model have come free per second lately."""
        ...

    def work_per_s(self, model: str) -> float:
        """How much token work (`Ask.work_s`) of a model has ended per second lately."""
        ...
