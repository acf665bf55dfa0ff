"""Prompts are sized from bytes, answers from what was answered; both follow what engines count."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.call import Usage
from gateway.estimates import Estimates, Sketch, TokenRatio


def test_before_anything_was_counted_a_token_is_four_bytes() -> None:
    assert Estimates().size("t", "m", 400, None).prompt_tokens == 100


def test_the_line_through_what_was_counted_is_found() -> None:
    ratio, dice = TokenRatio(), Random(1)
    for _ in range(300):
        tokens = dice.randint(20, 400)
        ratio.learn(150 + 5 * tokens, tokens)
    assert ratio.tokens(150 + 5 * 30) == pytest.approx(30, rel=0.05)
    assert ratio.tokens(150 + 5 * 2000) == pytest.approx(2000, rel=0.1)


def test_counts_that_cannot_be_are_passed_over() -> None:
    ratio = TokenRatio()
    for _ in range(50):
        ratio.learn(400, 100)
    before = ratio.tokens(4000)
    ratio.learn(400, 100_000)
    ratio.learn(10**9, 3)
    ratio.learn(400, 0)
    assert ratio.tokens(4000) == before


def test_a_model_that_changes_its_tokeniser_is_followed() -> None:
    ratio, dice = TokenRatio(), Random(1)
    for per_token in (4, 8):
        for _ in range(400):
            tokens = dice.randint(50, 500)
            ratio.learn(per_token * tokens, tokens)
    assert ratio.tokens(8 * 300) == pytest.approx(300, rel=0.05)


@given(st.lists(st.floats(1, 1e6), min_size=1, max_size=200), st.floats(0.01, 0.99))
def test_a_quantile_is_within_a_tenth_of_some_value_around_it(
    values: list[float], share: float
) -> None:
    sketch = Sketch()
    for value in values:
        sketch.add(value)
    found = sketch.quantile(share)
    assert min(values) * 0.9 <= found <= max(values) * 1.1


def test_a_sketch_follows_a_change_and_stays_bounded() -> None:
    sketch = Sketch()
    for _ in range(20_000):
        sketch.add(50)
    for _ in range(2_000):
        sketch.add(400)
    assert sketch.quantile(0.5) == pytest.approx(400, rel=0.06)
    assert sketch.mean == pytest.approx(400, rel=0.02)
    assert len(sketch.counts) == 168


def test_an_answer_is_at_most_what_was_allowed() -> None:
    estimates = Estimates()
    for _ in range(20):
        estimates.learn("t", "m", 400, Usage(100, 800))
    assert estimates.size("t", "m", 400, 50).output_tokens == 50
    assert estimates.size("t", "m", 400, None).output_tokens == pytest.approx(800)


def test_a_tenant_without_a_history_is_given_the_models() -> None:
    estimates = Estimates()
    estimates.learn("t", "m", 400, Usage(100, 30))
    assert estimates.size("other", "m", 400, None).output_tokens == pytest.approx(30)


def test_what_was_cached_is_no_prefill_of_the_mix() -> None:
    estimates = Estimates()
    assert estimates.mix("m") is None
    for _ in range(10):
        estimates.learn("t", "m", 400, Usage(100, 30, cached_tokens=80))
    mix = estimates.mix("m")
    assert mix is not None
    assert (mix.input_tokens, mix.output_tokens) == pytest.approx((20, 30))


def test_the_number_of_histories_is_bounded() -> None:
    estimates = Estimates(most_keys=10)
    for number in range(100):
        estimates.learn(f"t{number}", "m", 400, Usage(100, 30))
    assert estimates.output_quantile("t99", "m", 0.5) > 0
    assert estimates.output_quantile("t1", "m", 0.5) == 0
