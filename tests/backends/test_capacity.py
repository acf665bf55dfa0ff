"""The step law and what follows from it, against the calibration's own figures."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.capacity import (
    Mix,
    StepLaw,
    carried,
    permitted_step_s,
    prefill_rate_per_s,
    share,
    steady_step_s,
    tpot_s,
    ttft_s,
    work_s,
)
from backends.hardware import UnknownHardware, hardware, known_hardware, known_models, profile
from backends.slo import MLPERF_CLASSES, Targets

LAW = StepLaw(c0_s=10.5e-3, c_tok_s=30.6e-6, c_kv_s=26.7e-9)
GPUS = 8


def _class(name: str) -> Targets:
    return next(c for c in MLPERF_CLASSES if c.name == name).targets("llama2-70b")


def test_a_step_takes_the_sum_of_its_parts() -> None:
    assert LAW.step_s(100, 50, 1000) == pytest.approx(10.5e-3 + 150 * 30.6e-6 + 1000 * 26.7e-9)


def test_work_grows_with_the_square_of_the_output() -> None:
    assert work_s(LAW, Mix(100, 50)) == pytest.approx(30.6e-6 * 150 + 26.7e-9 * (5000 + 1250))


def test_the_share_is_the_references() -> None:
    assert share(LAW, permitted_step_s(_class("interactive"))) == pytest.approx(0.69, abs=0.005)
    assert share(LAW, permitted_step_s(_class("server"))) == pytest.approx(0.93, abs=0.01)
    assert share(LAW, permitted_step_s(_class("offline"))) == 1.0
    assert share(LAW, 0.0) == share(LAW, LAW.c0_s / 2) == 0.0


@pytest.mark.parametrize(
    ("name", "max_running", "node_tokens_per_s"),
    [("interactive", 512, 73_706), ("server", 2048, 100_282), ("offline", 2048, 103_040)],
)
def test_a_node_carries_what_was_published(
    name: str, max_running: int, node_tokens_per_s: float
) -> None:
    known = profile("llama2-70b", "mi355x")
    found = carried(known.law, known.mix, _class(name), max_running=max_running)
    assert found.tokens_per_s * GPUS == pytest.approx(node_tokens_per_s, rel=0.04)
    assert found.running <= max_running * 1.0001


def test_an_mi325x_node_carries_what_was_published() -> None:
    known = profile("llama2-70b", "mi325x")
    found = carried(known.law, known.mix, _class("server"), max_running=2048)
    assert found.tokens_per_s * GPUS == pytest.approx(32_028, rel=0.08)


def test_gpt_oss_holds_server_but_not_interactive() -> None:
    known = profile("gpt-oss-120b", "mi355x")
    by_name = {c.name: c.targets("gpt-oss-120b") for c in MLPERF_CLASSES}
    server = carried(known.law, known.mix, by_name["server"], max_running=known.max_running)
    assert server.tokens_per_s * GPUS == pytest.approx(82_136, rel=0.04)
    assert carried(known.law, known.mix, by_name["interactive"]).bound == "unreachable"


def test_limits_of_the_engine_bind_before_latency() -> None:
    mix = Mix(294, 294)
    free = carried(LAW, mix, Targets(tpot_s=0.2))
    batch = carried(LAW, mix, Targets(tpot_s=0.2), max_running=10)
    kv = carried(LAW, mix, Targets(tpot_s=0.2), kv_tokens=4000)
    assert (free.bound, batch.bound, kv.bound) == ("tpot", "batch", "kv")
    assert batch.running == pytest.approx(10)
    assert max(batch.tokens_per_s, kv.tokens_per_s) < free.tokens_per_s
    assert carried(LAW, Mix(100_000, 10), Targets(ttft_s=0.5)).bound == "unreachable"


def test_predictions_follow_the_law() -> None:
    alone = ttft_s(LAW, 4096)
    assert alone == pytest.approx(LAW.c0_s + LAW.c_tok_s * 4096)
    behind = ttft_s(LAW, 4096, ahead_tokens=4096, running=100, kv_tokens=50_000, until_step_s=0.01)
    assert behind > 2 * alone
    assert tpot_s(LAW, running=300, kv_tokens=150_000) == LAW.step_s(300, 0, 150_000)
    assert prefill_rate_per_s(LAW, running=0, kv_tokens=0, chunk_tokens=4096) == pytest.approx(
        4096 / alone
    )


def test_a_scaled_replica_decodes_alike_and_prefills_faster() -> None:
    scaled = LAW.scaled(4)
    assert scaled.step_s(400, 0, 200_000) == pytest.approx(LAW.step_s(100, 0, 50_000))
    assert scaled.step_s(0, 4096, 0) - scaled.c0_s == pytest.approx(
        (LAW.step_s(0, 4096, 0) - LAW.c0_s) / 4
    )


@given(st.floats(1, 4000), st.floats(1, 4000), st.floats(0.02, 0.5), st.floats(1.0, 3.0))
def test_what_is_carried_keeps_the_step_within_its_limit(
    inputs: float, outputs: float, tpot: float, spread: float
) -> None:
    mix = Mix(inputs, outputs, spread)
    found = carried(LAW, mix, Targets(tpot_s=tpot))
    assert found.step_s == pytest.approx(0.85 * tpot)
    # the rate that the work allows and the batch that the step allows are the same statement
    assert steady_step_s(LAW, mix, found.running) == pytest.approx(found.step_s, rel=1e-6)


def test_every_figure_says_where_it_is_from() -> None:
    for model in known_models():
        for name in known_hardware():
            found = profile(model, name)
            assert {"c0_s", "c_tok_s", "c_kv_s", "kv_tokens", "output_tokens"} <= set(
                found.provenance
            )
            assert all(found.provenance.values())
            assert found.kv_tokens > 0
            assert math.isfinite(found.law.step_s(1, 1, 1))
    assert "c_tok_s" not in profile("llama2-70b", "mi355x").assumed
    assert "c_tok_s" in profile("llama2-70b", "mi300x").assumed


def test_an_unknown_model_is_assumed_and_unknown_hardware_is_refused() -> None:
    found = profile("some-model", "mi355x")
    assert found.law == profile("llama2-70b", "mi355x").law
    assert set(found.assumed) == set(found.provenance)
    with pytest.raises(UnknownHardware, match="mi355x, mi325x, mi300x"):
        hardware("mi999")
