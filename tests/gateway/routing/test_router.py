"""A call goes where its promise is kept soonest, and never where it cannot be kept."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from backends.capacity import StepLaw
from backends.slo import Targets
from gateway.queue.ledger import Cost
from gateway.routing.picker import SAMPLE
from gateway.routing.prospects import Prospect, Roster
from gateway.routing.router import Choice, Question, candidates, is_reachable, ttft_from_slot_s
from tests.gateway.routing.prospects import LAW, NOW, holding, prospect, question

SLOW = StepLaw(10e-3, 160e-6, 64e-9)


def order(choice: Choice) -> list[str]:
    return [c.replica_id for c in choice.candidates]


def choose(prospects: list[Prospect], asked: Question) -> Choice:
    return candidates(Roster.of(tuple(prospects)), asked, Random(1))


def test_the_least_loaded_replica_comes_first() -> None:
    found = choose([prospect("a"), prospect("b")], question(holding(a=40, b=10)))
    assert order(found) == ["b", "a"]
    assert found.scored[0].score_s < found.scored[1].score_s


def test_load_is_weighed_by_speed() -> None:
    fleet = [prospect("fast"), prospect("slow", law=SLOW)]
    assert order(choose(fleet, question(holding(fast=12, slow=8))))[0] == "fast"
    assert order(choose(fleet, question(holding(fast=60, slow=8))))[0] == "slow"


def test_a_prefix_counts_for_the_seconds_that_it_saves() -> None:
    fleet = [prospect("a"), prospect("b")]
    asked = question(holding(a=12, b=10), prompt=4_000, cached={"a": 0.9})
    assert order(choose(fleet, asked))[0] == "a"
    pinned = question(holding(a=190, b=10), prompt=4_000, cached={"a": 0.9})
    assert order(choose(fleet, pinned))[0] == "b"


def test_the_holder_of_a_prefix_is_looked_at_in_a_pool_of_which_only_a_sample_is() -> None:
    fleet = [prospect(f"r{i:02}") for i in range(64)]
    for name in ("r00", "r31", "r63"):
        found = choose(fleet, question(prompt=4_000, cached={name: 0.9, "r07": 0.1}))
        assert order(found)[0] == name
        assert len(found.scored) <= SAMPLE + 1
    gone = choose(fleet, question(prompt=4_000, cached={"r63": 0.9}, tried=("r63",)))
    assert "r63" not in order(gone)


def test_a_full_replica_comes_after_one_with_room_and_is_still_offered() -> None:
    fleet = [prospect("full", slots=10), prospect("free")]
    found = choose(fleet, question(holding(full=10, free=150)))
    assert order(found) == ["free", "full"]
    assert [s.has_room for s in found.scored] == [True, False]


def test_a_replica_that_would_be_too_late_is_never_used_unless_all_would() -> None:
    far = prospect("far", law=SLOW)
    asked = question(prompt=2_000, within_s=0.3)
    found = choose([prospect("near"), far], asked)
    assert order(found) == ["near"]
    assert found.never == {"far"}
    assert order(choose([far], asked)) == ["far"]


def test_what_an_idle_replica_cannot_do_is_out_of_reach() -> None:
    asked = question(prompt=20_000)
    assert not is_reachable(choose([prospect("a")], asked), asked)
    modest = question(holding(a=150), prompt=200)
    assert is_reachable(choose([prospect("a")], modest), modest)


def test_prompts_that_are_done_before_there_is_room_do_not_delay_a_first_token_from_then_on() -> (
    None
):
    def held(tokens: int) -> Question:
        return question(lambda _: Cost(3, 900, tokens), prompt=1_000)

    def from_slot_s(tokens: int) -> float:
        return ttft_from_slot_s(choose([prospect("a")], held(tokens)), held(tokens))

    with_room = choose([prospect("a")], held(3_000))  # of 5,000 that may be in flight
    best = with_room.scored[0]
    assert best.has_room
    assert from_slot_s(3_000) == best.prediction.ttft_s
    assert from_slot_s(4_000) > from_slot_s(3_000)
    assert from_slot_s(4_800) == pytest.approx(from_slot_s(4_000))
    asked = question(lambda name: Cost(3, 900, {"a": 4_800}.get(name, 4_300)), prompt=1_000)
    both = choose([prospect("a"), prospect("b", slots=3)], asked)
    alone = choose([prospect("a")], asked)
    assert ttft_from_slot_s(both, asked) <= ttft_from_slot_s(alone, asked)
    assert ttft_from_slot_s(Choice(), asked) == 0.0


def test_interactive_calls_stay_at_home_and_server_calls_spill() -> None:
    fleet = [prospect("home", rtt_s=0.001), prospect("away", rtt_s=0.15)]
    busy = holding(home=100)
    assert order(choose(fleet, question(busy))) == ["home"]
    server = question(busy, targets=Targets(ttft_s=2.0, tpot_s=0.2), within_s=1.8)
    assert order(choose(fleet, server)) == ["away", "home"]


def test_a_replica_that_failed_this_call_is_not_tried_again() -> None:
    found = choose([prospect("a"), prospect("b")], question(tried=frozenset({"a"})))
    assert order(found) == ["b"]
    assert choose([prospect("a")], question(tried=frozenset({"a"}))).candidates == ()


def test_an_outlier_is_left_out_while_there_is_another() -> None:
    asked = question(ejected=frozenset({"a"}))
    assert order(choose([prospect("a"), prospect("b")], asked)) == ["b"]
    assert order(choose([prospect("a")], asked)) == ["a"]


def test_a_pool_that_is_to_shrink_is_filled_up() -> None:
    found = choose([prospect("a"), prospect("b")], question(holding(a=40, b=10), shrinking=True))
    assert order(found)[0] == "a"


def test_a_large_pool_is_sampled_and_offered_whole_where_the_sample_is_full() -> None:
    found = choose([prospect(f"r{i}") for i in range(64)], question())
    assert 2 <= len(found.scored) <= 8
    assert len(found.candidates) == len(found.scored)
    fleet = [prospect(f"r{i}", slots=1) for i in range(64)]
    full = choose(fleet, question(lambda _: Cost(1)))
    assert sorted(order(full)) == sorted(p.replica.id for p in fleet)


def test_stale_loads_are_not_compared_in_full() -> None:
    fleet = [prospect(f"r{i}") for i in range(16)]
    assert len(choose(fleet, question()).scored) == 16
    late = [prospect(f"r{i}") for i in range(16)]
    asked = question()
    asked = replace(asked, now=NOW + 60)
    assert len(choose(late, asked).scored) < 16


@given(
    st.lists(st.integers(0, 400), min_size=1, max_size=80),
    st.floats(1, 50_000),
    st.floats(-1, 5),
    st.integers(0, 2**32),
)
def test_every_replica_that_was_looked_at_is_offered_and_the_best_of_the_looked_at_is_first(
    running: list[int], prompt: float, within_s: float, seed: int
) -> None:
    fleet = [prospect(f"r{i}") for i in range(len(running))]
    held = {f"r{i}": Cost(n, 300 * n, 10 * n) for i, n in enumerate(running)}
    asked = question(lambda name: held[name], prompt=prompt, within_s=within_s)
    found = candidates(Roster.of(tuple(fleet)), asked, Random(seed))
    assert {s.prospect.replica.id for s in found.scored} <= {*order(found)}
    if len(fleet) <= 32:
        assert {*order(found)} | found.never == {p.replica.id for p in fleet}
    assert not {*order(found)} & found.never
    best = found.best
    assert best is not None
    assert order(found)[0] == best.prospect.replica.id
    if any(s.holds for s in found.scored):
        assert best.holds
        assert best.score_s == min(s.score_s for s in found.scored if s.holds)


@given(st.integers(0, 300), st.integers(0, 300))
def test_more_load_never_makes_a_prediction_better(first: int, more: int) -> None:
    def predicted(count: int) -> tuple[float, float]:
        scored = choose([prospect("a", law=LAW)], question(holding(a=count))).scored[0]
        return scored.prediction.ttft_s, scored.prediction.tpot_s

    assert predicted(first) <= predicted(first + more)
