"""Other policies are there to compare with; an unknown name lists the known ones."""

from random import Random

import pytest

from gateway.routing.policies import POLICIES, UnknownPolicy, policy
from gateway.routing.prospects import Roster
from tests.gateway.routing.prospects import holding, prospect, question

FLEET = Roster.of((prospect("a"), prospect("b"), prospect("c")))


def first(name: str, *asked: object) -> list[str]:
    found = policy(name, Random(1))
    return [found(FLEET, q).candidates[0].replica_id for q in asked]  # type: ignore[arg-type]


def test_round_robin_takes_turns_whatever_is_loaded() -> None:
    busy = question(holding(a=100))
    assert sorted(first("round_robin", busy, busy, busy)) == ["a", "b", "c"]


def test_least_outstanding_counts_calls() -> None:
    assert first("least_outstanding", question(holding(a=3, b=1, c=2))) == ["b"]


def test_cache_aware_follows_the_cache_until_calls_are_uneven() -> None:
    even = question(holding(a=20, b=10, c=15), cached={"a": 0.8})
    uneven = question(holding(a=120, b=10, c=15), cached={"a": 0.8})
    poor = question(holding(a=20, b=10, c=15), cached={"a": 0.2})
    assert first("cache_aware", even, uneven, poor) == ["a", "b", "b"]


@pytest.mark.parametrize("name", POLICIES)
def test_every_policy_offers_what_has_not_failed_and_nothing_where_all_has(name: str) -> None:
    made = policy(name, Random(1))
    found = made(FLEET, question(tried=frozenset({"b"})))
    assert sorted(c.replica_id for c in found.candidates) == ["a", "c"]
    assert made(FLEET, question(tried=frozenset("abc"))).candidates == ()
    assert made(Roster(), question()).candidates == ()


def test_an_unknown_policy_is_told_with_the_known_ones() -> None:
    with pytest.raises(UnknownPolicy, match="promised, round_robin, least_outstanding"):
        policy("fastest", Random(1))
