"""How does SGLang run on any CPU with PyTorch alone?

An out-of-tree platform of SGLang 0.5.23, chosen with SGLANG_PLATFORM=plain_cpu: every fused
operation takes its pure-torch path and attention is `torch_native`. Dense Llama models only; tensor
parallelism is 1.
"""

# PyPI's torchvision is linked to CUDA. Beside a CPU torch its operator library cannot load, and
# importing its Python part fails where it registers shapes for these operators. Their schemas are
# enough for the import; a call raises NotImplementedError.
TORCHVISION_SCHEMAS = {
    "nms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}


def activate() -> str:
    """Name the platform's class; SGLang calls this through the entry point, then imports it."""
    declare_torchvision_operators()
    return "sluice_plain_cpu.platform.PlainCpuPlatform"


def declare_torchvision_operators() -> None:
    """Make `import torchvision` work beside a CPU build of torch; harmless when called again."""
    import torch

    for name, schema in TORCHVISION_SCHEMAS.items():
        try:
            torch.library.define(f"torchvision::{name}", schema)
        except RuntimeError:  # defined already: by an earlier call, or by a torchvision that loads
            continue
