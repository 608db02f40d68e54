"""A plugin for SGLang's processes: the parts of its hierarchical cache that need CUDA, on the CPU.

SGLang has no kernels that copy between a CPU "device" and host memory, and it pins host memory by CUDA.
"""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any


def install(folder: Path) -> None:
    """Makes `folder` a place in Python's path where SGLang finds this plugin."""
    info = folder / "interop_cpu-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: interop-cpu\nVersion: 1\n")
    (info / "entry_points.txt").write_text(f"[sglang.srt.plugins]\ninterop_cpu = {__name__}:register\n")


def register() -> None:
    """Runs in each of SGLang's processes before it loads a model."""
    # SGLang imports vLLM's kernel outside of CUDA, and does not call it on the CPU.
    kernels = types.ModuleType("vllm._custom_ops")
    kernels.rotary_embedding = None  # type: ignore[attr-defined]
    sys.modules.setdefault("vllm", types.ModuleType("vllm"))
    sys.modules.setdefault("vllm._custom_ops", kernels)

    from sglang.srt.mem_cache.pool_host.mha import MHATokenToKVPoolHost

    make = MHATokenToKVPoolHost.__init__

    def without_pins(self: Any, *args: Any, **options: Any) -> None:
        make(self, *args, **{**options, "pin_memory": False})

    def to_host(self: Any, device_pool: Any, host_indices: Any, device_indices: Any, io_backend: str) -> None:
        for layer in range(self.layer_num):
            self.k_data_refs[layer][host_indices] = self.device_k_buffers[layer][device_indices]
            self.v_data_refs[layer][host_indices] = self.device_v_buffers[layer][device_indices]

    def to_device(
        self: Any, device_pool: Any, host_indices: Any, device_indices: Any, layer_id: int, io_backend: str, *, is_draft: bool = False
    ) -> None:
        self.device_k_buffers[layer_id][device_indices] = self.k_data_refs[layer_id][host_indices]
        self.device_v_buffers[layer_id][device_indices] = self.v_data_refs[layer_id][host_indices]

    MHATokenToKVPoolHost.__init__ = without_pins
    MHATokenToKVPoolHost.backup_from_device_all_layer = to_host
    MHATokenToKVPoolHost.load_to_device_per_layer = to_device
