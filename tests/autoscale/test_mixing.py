"""Which kinds of hardware start and end: the plan's number made into moves. Pure."""

from dataclasses import replace

import pytest

from autoscale.mixing import Lately, Mixed, moves
from autoscale.places import Mixture, Place, to_end, to_start
from autoscale.policy import Policy
from autoscale.stock import Move, Stock, counted

STAY = Move()
POLICY = Policy(up_area_s=6.0, down_area_s=80.0)


def _mixture(
    *kinds: tuple[float, float], home: frozenset[int] = frozenset({0, 1}), most: int = 100
) -> Mixture:
    """Kinds as (worth, cost)."""
    places = tuple(Place(f"k{i}", {}, cost=cost, most=most) for i, (_, cost) in enumerate(kinds))
    return Mixture(places, tuple(worth for worth, _ in kinds), home, frozenset())


BOTH = _mixture((1.0, 4.0), (0.5, 1.0))
ROOM = (Stock(room=100), Stock(room=100))


def _moves(
    target: int, *stocks: Stock, mixture: Mixture = BOTH, bound: float = 0.0, now: float = 0.0
) -> list[Move]:
    return moves(target, stocks, mixture, Mixed(), bound=bound, now=now, policy=POLICY)[0]


def test_the_cheapest_for_its_worth_starts_and_the_rest_is_covered_at_the_least_cost() -> None:
    assert to_start(2.0, [9, 5], BOTH) == [1, 1, 1, 1]
    assert to_start(3.0, [9, 5], BOTH) == [1, 1, 1, 1, 0]
    assert to_start(0.2, [9, 0], BOTH) == [0]
    assert to_start(0.0, [9, 9], BOTH) == []
    dear = _mixture((1.0, 1.0), (0.5, 0.9))
    assert to_start(2.0, [9, 9], dear) == [0, 0]
    assert to_start(1.4, [9, 9], dear) == [0, 1]
    assert to_start(9.0, [2, 0], BOTH) == [0, 0]


def test_a_start_is_paid_for_and_while_work_is_missed_a_quick_one_is_worth_its_price() -> None:
    """By hand: 1 + 60/3600 against 0.9 * (1 + 600/3600); missed work adds 8 * 60 or 600 s."""
    near, far = Place("near", {}, cost=1.0, start_s=60.0), Place("far", {}, cost=0.9, start_s=600.0)
    both = Mixture((near, far), (1.0, 1.0), frozenset({0, 1}), frozenset())
    assert both.costs(0.0) == pytest.approx([1.0167, 1.05], abs=1e-4)
    assert to_start(1.0, [1, 1], both) == [0]
    cheap = replace(far, cost=0.8)
    both = replace(both, places=(near, cheap))
    assert to_start(1.0, [1, 1], both) == [1]
    assert both.costs(8.0) == pytest.approx([1.15, 2.2667], abs=1e-4)
    assert to_start(1.0, [1, 1], both, miss_price=8.0) == [0]


def test_the_dearest_for_its_worth_ends_and_never_more_than_is_spare() -> None:
    assert to_end(1.7, [3, 3], BOTH) == [0, 1]
    assert to_end(0.4, [3, 3], BOTH) == []
    home = _mixture((1.0, 2.0), (1.0, 1.0), home=frozenset({0}))
    assert to_end(3.0, [4, 4], home, spare_at_home=2.0) == [0, 0, 1]


def test_a_fleet_of_one_kind_moves_as_the_plan_says() -> None:
    one = _mixture((1.0, 1.0), home=frozenset({0}))
    there = Stock(3, (5.0, 9.0), room=10)
    assert counted([there], one) == (3, (5.0, 9.0))
    assert _moves(7, there, mixture=one) == [Move(start=2)]
    assert _moves(5, there, mixture=one) == [STAY]
    assert _moves(2, there, mixture=one) == [Move(cancel=2, drain=1)]


def test_parts_of_a_unit_count_once_they_are_whole() -> None:
    assert counted([Stock(2), Stock(1, (3.0, 1.0))], BOTH) == (2, (1.0,))
    assert counted([Stock(2), Stock(1, foreign=1.0)], BOTH) == (3, ())


def test_where_a_kind_has_no_room_another_starts() -> None:
    assert _moves(2, *ROOM) == [STAY, Move(start=4)]
    assert _moves(2, Stock(room=100), Stock(1, room=1)) == [Move(start=1), Move(start=1)]
    assert _moves(2, Stock(room=100), Stock(room=0)) == [Move(start=2), STAY]
    assert _moves(2, Stock(room=0), Stock(room=0)) == [STAY, STAY]


def test_what_runs_is_not_exchanged_while_the_plan_stays() -> None:
    """Though the second kind is four times as cheap, and though half a unit is spare."""
    assert _moves(4, Stock(4, room=9), Stock(1, room=9)) == [STAY, STAY]
    assert _moves(4, Stock(3, room=9), Stock(3, room=9)) == [STAY, STAY]


def test_the_dearest_leaves_first_and_pending_starts_before_it() -> None:
    assert _moves(3, Stock(4, room=9), Stock(2, room=9)) == [Move(drain=2), STAY]
    waits = (Stock(4, room=9), Stock(0, (1.0, 2.0), room=9))
    assert _moves(4, *waits) == [STAY, Move(cancel=2)]
    assert _moves(3, *waits) == [Move(drain=1), Move(cancel=2)]


def test_what_cannot_be_seen_is_not_ended() -> None:
    blind = Stock(4, (1.0,), fixed=True)
    assert _moves(2, blind, Stock(4, room=9)) == [STAY, Move(drain=4)]


NEAR_ONLY = _mixture((1.0, 4.0), (1.0, 1.0), home=frozenset({0}))


def test_calls_that_may_not_go_far_start_near_at_once_where_the_fleet_grows() -> None:
    assert _moves(4, *ROOM, mixture=NEAR_ONLY, bound=0.5) == [
        Move(start=2, at_home=2),
        Move(start=2),
    ]


def test_calls_that_may_not_go_far_keep_their_units_as_it_shrinks() -> None:
    there = (Stock(4, room=9), Stock(4, room=9))
    assert _moves(5, *there, mixture=NEAR_ONLY, bound=0.6) == [Move(drain=1), Move(drain=2)]


@pytest.mark.parametrize(("share", "after_s"), [(0.75, 50.0), (0.5, None)])
def test_a_steady_fleet_starts_near_once_the_lack_has_cost_more_than_an_action(
    share: float, after_s: float | None
) -> None:
    """One unit of four is lacking for 24 seconds; at half of the work none is lacking at all."""
    stocks, memory, found = (Stock(2, room=9), Stock(2, room=9)), Mixed(), None
    for now in range(0, 600, 10):
        done, memory = moves(
            4, stocks, NEAR_ONLY, memory, bound=share, now=float(now), policy=POLICY
        )
        if any(each.acts for each in done):
            found = (float(now), done)
            break
    if after_s is None:
        assert found is None
    else:
        assert found == (30.0, [Move(start=1, at_home=1), STAY])


def test_what_is_only_feared_moves_nothing_while_the_fleet_need_not_grow() -> None:
    memory, there = Mixed(), (Stock(1, room=9), Stock(3, room=9))
    for now in range(0, 3600, 10):
        done, memory = moves(4, there, NEAR_ONLY, memory, bound=1.0, now=float(now), is_known=False)
        assert done == [STAY, STAY]
    done, _ = moves(5, there, NEAR_ONLY, memory, bound=1.0, now=3600.0, is_known=False)
    assert done[0].start


def test_shares_that_sway_about_a_whole_unit_move_nothing_for_hours() -> None:
    """Each time a unit was started near, so the other kind's may go; then both stay."""
    near, far, memory, actions = 2, 2, Mixed(), 0
    for now in range(0, 4 * 3600, 10):
        bound = 0.5 + (0.02 if now // 600 % 2 else -0.02)
        stocks = (Stock(near, room=9), Stock(far, room=9))
        target = 4 if now % 1200 else near + far - (near + far > 4)
        (first, second), memory = moves(
            target, stocks, NEAR_ONLY, memory, bound=bound, now=float(now), policy=POLICY
        )
        near, far = near + first.start - first.drain, far + second.start - second.drain
        actions += first.acts + second.acts
    assert actions <= 2
    assert (near, far) == (3, 1)


def test_the_share_of_bound_work_follows_what_comes() -> None:
    lately = Lately()
    assert lately.share == 1.0  # nobody knows: only what may serve all is sure to serve them
    lately = lately.after(1.0, 2.0, 10.0)
    assert lately.share == 0.5
    for _ in range(300):
        lately = lately.after(0.0, 2.0, 10.0)
    assert lately.share < 0.01
