import pytest

from autoscale.calibrate import Point, fit
from autoscale.sizing import Unreachable, size, targets_of
from backends.hardware import profile


@pytest.mark.parametrize(
    ("model", "scenario", "rate", "published"),
    [
        ("llama2-70b", "server", 1_016_380, 11),
        ("llama2-70b", "interactive", 785_522, 11),
        ("gpt-oss-120b", "server", 900_054, 12),
    ],
)
def test_published_fleets_are_sized_within_one_node(
    model: str, scenario: str, rate: float, published: int
) -> None:
    found = size(profile(model, "mi355x"), scenario, rate)
    limits = targets_of(model, scenario)
    assert abs(found.nodes - published) <= 1
    assert limits.ttft_s is not None
    assert limits.tpot_s is not None
    assert found.expected.ttft_s <= limits.ttft_s
    assert found.expected.tpot_s <= limits.tpot_s
    assert found.nodes_with_spare == found.nodes + 1


def test_what_no_number_of_nodes_can_hold_is_said() -> None:
    with pytest.raises(Unreachable, match="at any number of nodes"):
        size(profile("gpt-oss-120b", "mi355x"), "interactive", 1000.0)


def test_a_sweep_gives_the_law_back() -> None:
    law = profile("llama2-70b", "mi355x").law
    points = [
        Point(n, prompt, 48, law.step_s(n, 0, n * (prompt + 24)))
        for n in (1, 4, 16, 64)
        for prompt in (16, 512)
    ]
    found, error = fit(points)
    assert error < 1e-6
    assert found.c0_s == pytest.approx(law.c0_s)
    assert found.c_tok_s == pytest.approx(law.c_tok_s, rel=1e-3)
    assert found.c_kv_s == pytest.approx(law.c_kv_s, rel=1e-3)
