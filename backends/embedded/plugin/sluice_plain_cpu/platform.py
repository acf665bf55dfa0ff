"""What does SGLang ask of a platform, and what does a CPU answer?"""

from typing import Any

import psutil
import torch
from sglang.srt.platforms.device_mixin import PlatformEnum
from sglang.srt.platforms.interface import SRTPlatform


class PlainCpuPlatform(SRTPlatform):
    """One device, `cpu`; memory in bytes."""

    _enum = PlatformEnum.OOT
    device_name = "cpu"
    device_type = "cpu"

    def get_device_total_memory(self, device_id: int = 0) -> int:
        """Give the machine's memory."""
        return psutil.virtual_memory().total

    def get_current_memory_usage(self, device: Any = None) -> float:
        """Give what is in use on the machine."""
        memory = psutil.virtual_memory()
        return float(memory.total - memory.available)

    def get_available_memory(self, device_id: int = 0) -> tuple[int, int]:
        """Give what is free and what there is."""
        memory = psutil.virtual_memory()
        return memory.available, memory.total

    def get_device(self, device_id: int = 0) -> Any:
        """Give torch's device."""
        return torch.device("cpu")

    def set_device(self, device: Any) -> None:
        """There is one device, so nothing is to be chosen."""

    def get_device_name(self, device_id: int = 0) -> str:
        """Name the device."""
        return "cpu"

    def get_device_uuid(self, device_id: int = 0) -> str:
        """Name the device among others."""
        return f"cpu-{device_id}"

    def get_device_capability(self, device_id: int = 0) -> None:
        """Give no compute capability: those are a GPU's."""

    def get_torch_distributed_backend_str(self) -> str:
        """Name the transport of torch.distributed."""
        return "gloo"

    def get_default_attention_backend(self) -> str:
        """Name the attention that runs without kernels of its own."""
        return "torch_native"

    def get_torch_profiler_activity_str(self) -> str:
        """Name what a profiler records."""
        return "CPU"

    def get_torch_profiler_activity(self) -> Any:
        """Give what a profiler records."""
        return torch.profiler.ProfilerActivity.CPU
