"""Replicas of several kinds and places: which start and end, and what the way there costs."""

import itertools
from pathlib import Path
from random import Random

import numpy as np
import pytest

from autoscale.baselines import StaticPeak
from autoscale.config import BadConfig
from autoscale.places import worths
from autoscale.replay.fleet import UnitFleet
from autoscale.replay.kind import Kind
from autoscale.replay.sites import Site, mixture_of
from autoscale.replay.sites_file import read_sites
from autoscale.replay.tally import Tally
from autoscale.replay.world import replay
from autoscale.traces import Arrival
from backends.capacity import Mix
from backends.hardware import profile
from backends.slo import MLPERF_CLASSES


def _kind(hardware: str = "mi355x") -> Kind:
    base = profile("llama2-70b", hardware)
    return Kind(base, {c.name: c for c in MLPERF_CLASSES}, base.law, Mix(200.0, 50.0))


NEAR, OLD = _kind(), _kind("mi325x")
ALONE = [Arrival(5.0 * n, 200, 50) for n in range(6)]


def _worths(sites: list[Site], name: str) -> list[float]:
    return worths([each.place for each in sites], NEAR.classes[name], "llama2-70b")


def test_a_unit_is_worth_what_it_does_within_the_limits_of_the_class() -> None:
    """By hand: 0.97 * (1 - c0 / 34 ms) of a second, over the work of a mean call."""
    first, second = _worths([Site("new", NEAR), Site("old", OLD)], "interactive")
    share = (1 - 19.4 / 34.0) / (1 - 10.5 / 34.0)
    assert first == 1.0
    assert second == pytest.approx(share / 3.1, rel=0.01)


def test_a_unit_that_is_too_far_for_a_class_is_worth_nothing_for_it() -> None:
    """A quarter of the limit may be spent on the way: 112 ms of 450 ms, 500 ms of 2 s."""
    for rtt_s, name, worth in (
        (0.11, "interactive", 1.0),
        (0.12, "interactive", 0.0),
        (0.15, "server", 1.0),
        (0.51, "server", 0.0),
        (9.0, "offline", 1.0),
    ):
        found = _worths([Site("near", NEAR), Site("far", NEAR, rtt_s=rtt_s)], name)
        assert found == [1.0, worth]


def test_calls_that_may_not_go_far_keep_their_units_at_home() -> None:
    sites = [Site("near", NEAR), Site("far", NEAR, rtt_s=0.15)]
    found = mixture_of(sites)
    assert found.bound == {"interactive"}
    assert found.home == {0}
    assert found.worth == (1.0, 1.0)


def test_a_fleet_starts_what_only_home_can_serve_there_and_the_rest_where_it_is_cheap() -> None:
    sites = [Site("near", NEAR), Site("far", NEAR, rtt_s=0.15, cost=0.5)]
    fleet = UnitFleet(sites, dice=Random(1), numbers=itertools.count())
    fleet.change_to(4, 0.0, bound=0.5)
    assert fleet.count() == {"near": 2, "far": 2}
    fleet.change_to(4, 10.0, bound=1.0)
    assert fleet.count() == {"near": 2, "far": 2}  # two units' lack for ten seconds: no action yet
    fleet.change_to(4, 20.0, bound=1.0)
    assert fleet.count() == {"near": 4}
    assert fleet.paid == 4.0
    fleet.change_to(2, 30.0, bound=0.5)
    assert fleet.count() == {"near": 2}


def _found(sites: list[Site], arrivals: list[Arrival] = ALONE, units: int = 1) -> Tally:
    found = replay(arrivals, sites[0].kind, StaticPeak(units), units=units, sites=sites)
    assert found.dropped == 0
    return found.classes["interactive"]


def test_the_way_there_and_back_adds_to_the_first_token_and_to_nothing_else() -> None:
    near, far = _found([Site("near", NEAR)]), _found([Site("far", NEAR, rtt_s=0.15)])
    assert far.ttft_p99_s - near.ttft_p99_s == pytest.approx(0.15, abs=1e-9)
    assert far.tpot_p99_s == pytest.approx(near.tpot_p99_s, abs=1e-9)
    assert near.kept == far.kept == len(ALONE)


def test_a_place_too_far_for_the_promise_keeps_none() -> None:
    assert _found([Site("far", NEAR, rtt_s=0.5)]).kept == 0


def test_calls_go_near_while_there_is_room_and_far_when_there_is_none() -> None:
    rng = np.random.default_rng(2)
    call_s = NEAR.law.c_tok_s * 250 + NEAR.law.c_kv_s * 50 * 225
    per_s = 1.6 * NEAR.share("server") / call_s
    at = np.cumsum(rng.exponential(1.0 / per_s, size=int(per_s * 30.0)))
    many = [Arrival(float(t), 200, 50, class_name="server") for t in at]
    near = Site("near", NEAR, most=1)
    alone = replay(many, NEAR, StaticPeak(1), units=1, sites=[near], default_class="server")
    sites = [near, Site("far", NEAR, rtt_s=0.15, cold_start_s=0.001)]
    both = replay(many, NEAR, StaticPeak(2), units=1, sites=sites, default_class="server")
    assert both.most_by_site == {"near": 1, "far": 1}
    assert both.classes["server"].kept > 1.1 * alone.classes["server"].kept
    assert both.dropped == alone.dropped == 0


def test_a_file_gives_kinds_and_places(tmp_path: Path) -> None:
    file = tmp_path / "sites.yaml"
    file.write_text(
        "- {name: near, most: 3}\n"
        "- {name: far, hardware: mi325x, rtt_s: 0.15, cost: 0.25, cold_start_s: 60, c0_s: 0.02}\n",
        encoding="utf-8",
    )
    near, far = read_sites(file, NEAR, 240.0)
    assert near == Site("near", NEAR, most=3)
    assert (far.rtt_s, far.cost, far.cold_start_s) == (0.15, 0.25, 60.0)
    assert (far.kind.law.c0_s, far.kind.law.c_tok_s) == (0.02, OLD.law.c_tok_s)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("- {name: a, speed: 1}", "speed: unknown"),
        ("- {hardware: mi355x}", "name"),
        ("- {name: a, hardware: abacus}", "abacus"),
        ("- {name: a, rtt_s: near}", "must be a number"),
        ("- {name: a}\n- {name: a}", "same name"),
        ("- {name: a, rtt_s: 0.1}\n- {name: b}", "nearest"),
        ("[]", "at least one"),
    ],
)
def test_a_file_that_cannot_be_meant_is_refused(tmp_path: Path, text: str, why: str) -> None:
    file = tmp_path / "sites.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(BadConfig, match=why):
        read_sites(file, NEAR, 240.0)
