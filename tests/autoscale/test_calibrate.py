"""Does calibrate tell apart what a replica's time goes to, whatever its streams look like?"""

import pytest

from autoscale.calibrate import Point, fit, mean_step_s, with_prefill
from backends.capacity import Mix, StepLaw, steady_step_s, ttft_s, work_s

LAW = StepLaw(6.2e-3, 11e-6, 56e-9)


def stream(
    step_s: float, tokens: int, *, every: int = 1, late_s: float = 0.0
) -> list[tuple[float, int]]:
    """Give the frames of a stream that are in hand no sooner than `late_s`."""
    counts = sorted({*range(1, tokens + 1, every), tokens})
    return [(max(late_s, n * step_s), n) for n in counts]


@pytest.mark.parametrize("every", [1, 16])
def test_the_mean_step_is_the_time_between_tokens(every: int) -> None:
    assert mean_step_s([stream(0.01, 96, every=every)] * 4, 96) == pytest.approx(0.01)


def test_first_tokens_that_come_late_and_in_a_heap_do_not_shorten_the_step() -> None:
    streams = [stream(0.01, 96, every=16, late_s=0.3) for _ in range(256)]
    assert mean_step_s(streams, 96) == pytest.approx(0.01)


def test_streams_that_ended_before_the_last_began_are_measured_from_there() -> None:
    late = [(at + 0.5, n) for at, n in stream(0.01, 96)]
    assert mean_step_s([stream(0.01, 96), late], 96) == pytest.approx(0.01)


def test_streams_of_one_frame_measure_nothing() -> None:
    with pytest.raises(ValueError, match="too few tokens"):
        mean_step_s([[(1.0, 1)]], 96)


def test_the_fit_finds_the_law_that_made_the_points() -> None:
    points = [
        Point(n, prompt, 96, LAW.step_s(n, 0, n * (prompt + 48)))
        for n in (1, 4, 16, 64, 256)
        for prompt in (48, 545)
    ]
    found, error = fit(points)
    assert found.c0_s == pytest.approx(LAW.c0_s)
    assert found.c_tok_s == pytest.approx(LAW.c_tok_s)
    assert found.c_kv_s == pytest.approx(LAW.c_kv_s)
    assert error < 1e-6


def test_prefill_that_costs_more_than_decoding_is_told_apart() -> None:
    law = with_prefill(LAW, took_s=6.2e-3 + 3000 * 27e-6, tokens=3000)
    assert law.prefill_token_s == pytest.approx(27e-6)
    assert with_prefill(LAW, took_s=1e-3, tokens=3000).prefill_token_s == LAW.c_tok_s


def test_a_law_with_dear_prefill_foresees_longer_prompts_and_fewer_calls() -> None:
    dear, mix = with_prefill(LAW, 6.2e-3 + 27e-3, 1000), Mix(780, 128)
    extra_s = 780 * (27e-6 - LAW.c_tok_s)
    assert ttft_s(dear, 780) - ttft_s(LAW, 780) == pytest.approx(extra_s)
    assert work_s(dear, mix) - work_s(LAW, mix) == pytest.approx(extra_s)
    per_step_s = 10 * extra_s / 128
    assert steady_step_s(dear, mix, 10) - steady_step_s(LAW, mix, 10) == pytest.approx(per_step_s)
    assert dear.step_s(4, 100, 0) == pytest.approx(6.2e-3 + 4 * 11e-6 + 100 * 27e-6)
    assert dear.scaled(2.0).prefill_token_s == pytest.approx(27e-6 / 2)
