"""Each class with demand has replicas enough; the tightest comes first."""

from hypothesis import given
from hypothesis import strategies as st

from backends.slo import Targets
from gateway.levels import SEEN_S, Demand, Level, levels, too_far

REPLICAS = [f"r{i}" for i in range(8)]
DOES = {"interactive": 0.7, "server": 0.9}


def kept_levels(
    demand: dict[str, float], before: dict[str, Level] | None = None
) -> dict[str, Level]:
    classes = [name for name in ("interactive", "server") if name in demand]
    return dict(levels(classes, demand, DOES, REPLICAS, before or {}))


def kept(demand: dict[str, float], before: dict[str, Level] | None = None) -> dict[str, str]:
    return {replica: level.name for replica, level in kept_levels(demand, before).items()}


def test_without_demand_nothing_is_kept() -> None:
    assert kept({}) == {}


def test_one_class_has_all() -> None:
    assert {*kept({"server": 0.1}).values()} == {"server"}


def test_a_tight_class_has_what_it_needs_and_the_loose_one_the_rest() -> None:
    found = list(kept({"interactive": 1.4, "server": 2.0}).values())
    assert found.count("interactive") == 3
    assert found.count("server") == 5


def test_a_tight_class_with_little_demand_keeps_one() -> None:
    assert list(kept({"interactive": 0.001, "server": 9.0}).values()).count("interactive") == 1


def test_a_tight_class_that_needs_all_has_all() -> None:
    assert {*kept({"interactive": 50.0, "server": 2.0}).values()} == {"interactive"}


def test_replicas_stay_what_they_were() -> None:
    before = {"r6": Level("interactive"), "r7": Level("interactive", alone=True)}
    found = kept({"interactive": 1.0, "server": 2.0}, before)
    assert {r for r, name in found.items() if name == "interactive"} == {"r6", "r7"}


def test_what_a_tight_class_needs_whole_it_has_alone_and_the_last_one_in_common() -> None:
    found = kept_levels({"interactive": 1.4, "server": 2.0})
    alone = [r for r, level in found.items() if level.alone]
    assert len(alone) == 2  # 1.3 * 1.4 / 0.7 = 2.6
    assert not kept_levels({"interactive": 0.1, "server": 2.0})["r0"].alone


@given(st.floats(0, 50), st.floats(0, 50))
def test_a_looser_class_always_has_a_replica_to_go_to(tight: float, loose: float) -> None:
    found = kept_levels({"interactive": tight, "server": loose})
    assert not all(level.alone for level in found.values())


@given(st.floats(0, 20), st.floats(0, 20))
def test_every_replica_is_kept_for_somebody(tight: float, loose: float) -> None:
    assert {*kept({"interactive": tight, "server": loose})} == {*REPLICAS}


def test_demand_is_the_work_asked_for_per_second_and_fades() -> None:
    demand = Demand()
    for tick in range(400):
        demand.ask(0.05, 0.1 * tick)
    assert 0.4 < demand.now(40.0) < 0.6
    assert demand.now(80.0) < 0.01
    assert demand.is_alive(40.0 + SEEN_S - 1)
    assert not demand.is_alive(40.0 + SEEN_S + 1)


def test_only_the_class_beside_one_that_fills_replicas_deep_keeps_more_for_its_bursts() -> None:
    demand = {"interactive": 2.5, "server": 0.9, "offline": 1.0}
    does = {**DOES, "offline": 1.0}
    three = levels([*demand], demand, does, REPLICAS, {}, generous=True)
    kept = [level.name for level in three.values()]
    assert kept.count("interactive") == 5  # 1.3 * 2.5 / 0.7, and nothing for bursts
    two = levels(["interactive", "offline"], demand, does, REPLICAS, {}, generous=True)
    assert [level.name for level in two.values()].count("interactive") == 6


def test_no_replica_is_kept_for_calls_that_do_not_go_there() -> None:
    """Interactive calls spend 112 ms on the way at the most, server calls half a second."""
    ways = {r: 0.15 if r > "r1" else 0.0 for r in REPLICAS}
    targets = {
        "interactive": Targets(ttft_s=0.45),
        "server": Targets(ttft_s=2.0),
        "offline": Targets(),
    }
    far = too_far(ways, targets)
    assert far == {"interactive": {*REPLICAS[2:]}}
    found = levels(
        ["interactive", "server"], {"interactive": 9.0, "server": 1.0}, DOES, REPLICAS[::-1], {},
        far=far,
    )  # fmt: skip
    assert {r for r, level in found.items() if level.name == "interactive"} == {"r0", "r1"}
    assert too_far(dict.fromkeys(REPLICAS, 0.15), targets) == {}
