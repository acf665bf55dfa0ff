"""What is the smallest pipeline that a real diffusion server serves?

`python tiny_wan.py OUT` writes a Wan text-to-video pipeline with random weights (about 140 k
parameters, 0.6 MB): text encoder, transformer, VAE, scheduler. Its picture is noise; its denoising,
decoding and encoding are real: 64x64, 9 frames, 4 steps in under a second on one core.
"""

import sys
from pathlib import Path

from sluice_plain_cpu import declare_torchvision_operators

VOCABULARY_TOKENS = 512
ROLES = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
WIDTH = 32
TEXT = ["a cat walks on the grass while the camera moves slowly to the left"] * 8


def main(out: Path) -> None:
    """Write the pipeline to `out`."""
    declare_torchvision_operators()  # before transformers, which imports torchvision
    import torch
    from diffusers import (
        AutoencoderKLWan,
        UniPCMultistepScheduler,
        WanPipeline,
        WanTransformer3DModel,
    )
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

    torch.manual_seed(0)
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_TOKENS,
        special_tokens=["<pad>", "</s>", "<unk>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(TEXT, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, **ROLES)
    encoder = UMT5Config(
        vocab_size=VOCABULARY_TOKENS,
        d_model=WIDTH,
        d_kv=8,
        d_ff=64,
        num_layers=2,
        num_heads=4,
        feed_forward_proj="gated-gelu",
        pad_token_id=0,
        eos_token_id=1,
    )
    transformer = WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=16,
        out_channels=16,
        text_dim=WIDTH,
        freq_dim=256,
        ffn_dim=WIDTH,
        num_layers=2,
        cross_attn_norm=True,
        qk_norm="rms_norm_across_heads",
        rope_max_seq_len=64,
    )
    vae = AutoencoderKLWan(
        base_dim=8,
        z_dim=16,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        temperal_downsample=[False, True, True],
    )
    scheduler = UniPCMultistepScheduler(
        prediction_type="flow_prediction",
        use_flow_sigmas=True,
        num_train_timesteps=1000,
        flow_shift=3.0,
    )
    WanPipeline(
        tokenizer=tokenizer,
        text_encoder=UMT5EncoderModel(encoder).eval(),
        transformer=transformer.eval(),
        vae=vae.eval(),
        scheduler=scheduler,
    ).save_pretrained(out)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
