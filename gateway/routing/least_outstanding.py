"""Which replica has the least to do?"""

from collections.abc import Callable

from backends.fleet import Pool, Standing
from gateway.queue.ledger import Candidate

# Where neither the configuration nor the engine says how many calls may run at once.
UNSTATED_LIMIT = 256


def limit_of(standing: Standing) -> int:
    """Say how many calls may run on a replica: configured, else reported, else a guess."""
    if standing.replica.max_running:
        return standing.replica.max_running
    if standing.load is not None and standing.load.max_running:
        return standing.load.max_running
    return UNSTATED_LIMIT


def candidates(
    pool: Pool, running: Callable[[str], int], *, excluded: frozenset[str]
) -> tuple[Candidate, ...]:
    """Order the routable replicas by the share of their slots in use, the fewest first.

    Score: the greater of our own calls there and the engine's own count of running and waiting
    ones (other gateways' calls; a second old at most, 0 where it is missing), over the limit.
    """

    def score(standing: Standing) -> tuple[float, int, str]:
        ours = running(standing.replica.id)
        theirs = standing.load.running + standing.load.waiting if standing.load else 0
        return (max(ours, theirs) / limit_of(standing), ours, standing.replica.id)

    usable = [s for s in pool.routable if s.replica.id not in excluded]
    usable.sort(key=score)
    return tuple(Candidate(s.replica.id, limit_of(s)) for s in usable)
