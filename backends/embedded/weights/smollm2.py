"""How does SmolLM2-135M-Instruct become a directory that SGLang loads?

`python smollm2.py MODEL.gguf OUT` dequantises the GGUF file and writes Hugging Face safetensors in
bf16 (269 MB) with the tokenizer and its chat template.
"""

import sys
from pathlib import Path
from typing import Any

from sluice_plain_cpu import declare_torchvision_operators

# What a call gets that names no temperature: nearly the likeliest token each time. At 1.0, OpenAI's
# default, four-bit weights of this size lose the subject ("The" leads "L'Étoile" by 0.1 nats when
# asked for the capital of France).
SAMPLING = {"temperature": 0.01, "top_p": 0.9}

# One layer's tensors: GGUF's names (after "blk.N.") and Hugging Face's (after "model.layers.N.").
LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def main(source: Path, out: Path) -> None:
    """Convert `source` and write the model to `out`."""
    declare_torchvision_operators()  # before transformers, which imports torchvision
    import gguf
    import numpy as np
    import torch
    from transformers import AutoTokenizer, LlamaForCausalLM

    reader = gguf.GGUFReader(source)
    tensors = {
        tensor.name: torch.from_numpy(np.array(gguf.dequantize(tensor.data, tensor.tensor_type)))
        for tensor in reader.tensors
    }
    tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    tokenizer.save_pretrained(out)
    config = _config(reader, tensors, tokenizer)
    model = LlamaForCausalLM(config)
    model.load_state_dict(_state(tensors, config.num_attention_heads, config.num_key_value_heads))
    model.generation_config.update(do_sample=True, **SAMPLING)
    model.to(torch.bfloat16).eval().save_pretrained(out)


def _config(reader: Any, tensors: dict[str, Any], tokenizer: Any) -> Any:
    from transformers import LlamaConfig

    def field(name: str) -> Any:
        entry = reader.fields[f"llama.{name}"]
        return entry.parts[entry.data[0]][0].item()

    return LlamaConfig(
        vocab_size=tensors["token_embd.weight"].shape[0],
        hidden_size=field("embedding_length"),
        intermediate_size=field("feed_forward_length"),
        num_hidden_layers=field("block_count"),
        num_attention_heads=field("attention.head_count"),
        num_key_value_heads=field("attention.head_count_kv"),
        max_position_embeddings=field("context_length"),
        rms_norm_eps=field("attention.layer_norm_rms_epsilon"),
        rope_parameters={"rope_type": "default", "rope_theta": field("rope.freq_base")},
        tie_word_embeddings="output.weight" not in tensors,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def _state(tensors: dict[str, Any], heads: int, kv_heads: int) -> dict[str, Any]:
    embedding = tensors["token_embd.weight"]
    state = {
        "model.embed_tokens.weight": embedding,
        "model.norm.weight": tensors["output_norm.weight"],
        "lm_head.weight": tensors.get("output.weight", embedding),
    }
    for name, tensor in tensors.items():
        if not name.startswith("blk."):
            continue
        _, layer, part, _ = name.split(".")
        if part in ("attn_q", "attn_k"):
            tensor = _unpermuted(tensor, heads if part == "attn_q" else kv_heads)
        state[f"model.layers.{layer}.{LAYER_NAMES[part]}.weight"] = tensor
    return state


def _unpermuted(weight: Any, heads: int) -> Any:
    """Undo GGUF's order of rotary pairs, which interleaves the two halves of each head."""
    rows, columns = weight.shape
    halves = weight.reshape(heads, rows // heads // 2, 2, columns)
    return halves.transpose(1, 2).reshape(rows, columns)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
