"""How SGLang's diffusion server is started for Wan, and what it is told."""

import pytest

from backends.diffusion import UnknownVideoModel, launch_command
from backends.video_order import VideoOrder


def test_wan_on_eight_gpus_splits_guidance_and_sequence_and_never_rings() -> None:
    line = launch_command("wan-2.2-t2v-a14b", port=30100)
    words = list(line.argv)

    def after(flag: str) -> str:
        return words[words.index(flag) + 1]

    assert after("--model-path") == "Wan-AI/Wan2.2-T2V-A14B-Diffusers"
    assert "--enable-cfg-parallel" in words
    split = [after(flag) for flag in ("--num-gpus", "--ulysses-degree", "--ring-degree")]
    assert split == ["8", "4", "1"]
    assert after("--attention-backend") == "aiter"
    assert line.env["SGLANG_USE_AITER"] == "1"
    assert not any("offload" in word for word in words)


def test_one_gpu_has_nothing_to_split() -> None:
    words = launch_command("wan-2.2-t2v-a14b", port=1, gpus=1, checkpoint="/models/wan").argv
    assert "/models/wan" in words
    assert not {"--enable-cfg-parallel", "--ulysses-degree", "--ring-degree"} & set(words)


def test_what_cannot_be_started_is_told() -> None:
    with pytest.raises(UnknownVideoModel):
        launch_command("nobody-s", port=1)
    for gpus in (0, 3, 6):
        with pytest.raises(ValueError, match="powers of two"):
            launch_command("wan-2.2-t2v-a14b", port=1, gpus=gpus)


def test_the_engine_is_told_size_frames_rate_and_steps_always_and_nothing_unknown() -> None:
    order = VideoOrder(
        prompt="p", width=64, height=96, frames=9, fps=16, steps=4, seed=7, guidance_scale=4.0
    )
    assert order.engine_fields("wan") == {
        **{"model": "wan", "prompt": "p", "size": "64x96", "num_frames": 9, "fps": 16},
        **{"num_inference_steps": 4, "seed": 7, "guidance_scale": 4.0},
    }
    assert order.units == 64 * 96 * 9 * 4
    # A record of a later version is read without what is not known here.
    assert VideoOrder.decode({**order.encode(), "output_path": "/etc"}) == order
