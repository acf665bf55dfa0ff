"""A dear unit makes room for cheaper ones once that has cost enough, and not for nothing. Pure."""

from dataclasses import replace

import pytest

from autoscale.mixing import Mixed, moves
from autoscale.places import Mixture, Place
from autoscale.policy import Policy
from autoscale.stock import Move, Stock, counted

STAY = Move()
POLICY = Policy(up_area_s=6.0, down_area_s=80.0)
NEW, OLD = Place("new", {}, cost=1.0, start_s=240.0), Place("old", {}, cost=0.1, start_s=240.0)
HOME = frozenset({0, 1})
BOTH = Mixture((NEW, OLD), (1.0, 0.5), HOME, frozenset())


class Fleet:
    """Units that start in `start_s`, and a plan that asks for what counts already."""

    def __init__(self, new: int, old: int, mixture: Mixture = BOTH, *, room: int = 9) -> None:
        self.serving, self.mixture, self.room = [new, old], mixture, room
        self.starting: list[list[float]] = [[], []]
        self.memory, self.now = Mixed(), 0.0
        self.done: list[tuple[float, list[Move]]] = []
        self.fails = False

    @property
    def stocks(self) -> list[Stock]:
        return [
            Stock(count, tuple(starts), room=self.room)
            for count, starts in zip(self.serving, self.starting, strict=True)
        ]

    def tick(self, more: int = 0, *, bound: float = 0.0, may_end: bool = True) -> list[Move]:
        """Ten seconds later: the plan asks for so many units more than count."""
        self.now += 10.0
        for i, starts in enumerate(self.starting):
            up = [at for at in starts if self.now - at >= self.mixture.places[i].start_s]
            self.starting[i] = [at for at in starts if at not in up]
            self.serving[i] += 0 if self.fails else len(up)
        settled = self.memory.trading.without_pending(self.stocks)
        ready, whole = counted(settled, self.mixture)
        done, self.memory = moves(
            ready + len(whole) + more, self.stocks, self.mixture, self.memory, bound=bound,
            now=self.now, may_end=may_end, policy=POLICY,
        )  # fmt: skip
        for i, move in enumerate(done):
            self.starting[i] += [self.now] * move.start
            self.starting[i] = self.starting[i][: len(self.starting[i]) - move.cancel]
            self.serving[i] -= move.drain
        if any(move.acts for move in done):
            self.done.append((self.now, done))
        return done

    def ticks(self, count: int, **how: bool) -> None:
        for _ in range(count):
            self.tick(**how)


def test_a_dear_unit_makes_room_once_that_would_have_saved_what_it_takes() -> None:
    """0.8 a second for 275 s and more: two starts of 24 and two actions of 86 are 220."""
    fleet = Fleet(1, 0)
    fleet.ticks(28)
    assert fleet.done == []
    fleet.ticks(30)
    (begun, first), (ended, second) = fleet.done
    assert (begun, first) == (290.0, [STAY, Move(start=2, traded=True)])
    assert (ended, second) == (530.0, [Move(drain=1, traded=True), STAY])
    assert fleet.serving == [0, 2]
    fleet.ticks(1000)
    assert len(fleet.done) == 2


def test_what_is_not_cheaper_or_has_no_room_takes_nothing_over() -> None:
    dear = replace(BOTH, places=(NEW, replace(OLD, cost=0.5)))
    for fleet in (Fleet(4, 2, dear), Fleet(4, 0, room=1)):
        fleet.ticks(500)
        assert fleet.done == []


def test_while_it_starts_nothing_else_changes_and_the_plan_goes_on() -> None:
    fleet = Fleet(2, 0)
    fleet.ticks(29)
    assert fleet.starting[1]
    settled = fleet.memory.trading.without_pending(fleet.stocks)
    assert counted(settled, fleet.mixture) == (2, ())
    done = fleet.tick(1)  # what the plan asks for now is what is on its way
    assert done == [STAY, STAY]
    assert fleet.memory.trading.open is None
    fleet.ticks(24)
    assert fleet.serving == [2, 2]
    fleet.tick(-1)
    assert fleet.serving == [1, 2]


def test_starts_that_come_to_nothing_end_no_unit() -> None:
    fleet = Fleet(2, 0)
    fleet.fails = True
    fleet.ticks(58)
    assert fleet.serving == [2, 0]
    assert all(move.drain == 0 for _, done in fleet.done for move in done)


def test_who_is_blind_ends_nothing() -> None:
    fleet = Fleet(2, 0)
    fleet.ticks(29)
    fleet.ticks(40, may_end=False)
    assert fleet.serving == [2, 2]
    fleet.tick()
    assert fleet.serving == [1, 2]


@pytest.mark.parametrize(("bound", "left"), [(0.25, 2), (0.75, 4)])
def test_calls_that_may_not_go_far_keep_their_units(bound: float, left: int) -> None:
    """One unit is needed near, and half a one is kept beside it; then three."""
    apart = replace(BOTH, home=frozenset({0}), bound=frozenset({"interactive"}))
    fleet = Fleet(4, 0, apart)
    for _ in range(1000):
        fleet.tick(bound=bound)
    assert fleet.serving == [left, 2 * (4 - left)]
