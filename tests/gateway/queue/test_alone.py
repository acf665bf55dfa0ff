"""Without the store a gateway fills each replica up to its share."""

import pytest

from gateway.queue.alone import Alone
from gateway.queue.ledger import Candidate, Cost, Slot
from gateway.queue.order import Waiting
from tests.gateway.queue.asks import MODEL, ask


def held(lease_id: str, replica_id: str = "a") -> Slot:
    return Slot("held", replica_id, MODEL, lease_id, 1, Cost(), 1.0, 0.0, 0.0)


class Grants(list[tuple[str, str]]):
    """Who got which replica, in order."""

    def __call__(self, lease_id: str, replica_id: str) -> None:
        self.append((lease_id, replica_id))


@pytest.mark.parametrize(
    ("limit", "among", "share"), [(4, 2, 2), (5, 2, 2), (1, 3, 1), (0, 2, 0), (3, 1, 3)]
)
def test_the_share_of_a_replica_is_its_bound_over_the_gateways(
    limit: int, among: int, share: int
) -> None:
    grants = Grants()
    alone = Alone(MODEL, among, now=lambda: 0.0, starvation_s=60.0, grant=grants)
    for number in range(5):
        alone.ask(Waiting(f"g:{number}", ask(f"{number}", "a", limit=limit), 0.0, 0))
    assert len(grants) == share
    assert alone.outstanding("a").sequences == share
    assert sum(each.calls for each in alone.backlog().values()) == 5 - share


def test_slots_that_the_store_granted_fill_the_share() -> None:
    grants = Grants()
    alone = Alone(MODEL, 2, now=lambda: 0.0, starvation_s=60.0, grant=grants)
    alone.tell(Candidate("a", 4, kv_tokens=100), 1)
    alone.adopt(held("g:0"))
    alone.adopt(held("g:1"))
    waiting = Waiting("g:2", ask("2", "a", limit=4), 0.0, 0)
    assert not alone.take_over(waiting.ask, "g:2")
    alone.ask(waiting)
    assert grants == []
    alone.release(held("g:0"))
    assert grants == [("g:2", "a")]


def test_a_call_that_leaves_is_given_nothing() -> None:
    grants = Grants()
    alone = Alone(MODEL, 1, now=lambda: 0.0, starvation_s=60.0, grant=grants)
    alone.adopt(held("g:0"))
    alone.ask(Waiting("g:1", ask("1", "a"), 0.0, 0))
    alone.leave("g:1")
    alone.release(held("g:0"))
    assert grants == []
    alone.offer((Candidate("b", 1),), None)
    assert alone.backlog() == {}
