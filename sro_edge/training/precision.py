"""In which precision a processor multiplies fastest."""

from __future__ import annotations

import torch


def multiplies_bf16(device: torch.device) -> bool:
    """Whether the processor itself multiplies in bf16.

    Where that is emulated, fp32 is faster: a product 45 times, on a CPU with AVX2 alone.
    """
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    able = torch.cpu.get_capabilities() if device.type == "cpu" else {}
    return bool(able.get("avx512_bf16") or able.get("amx_bf16"))


def autocast(device: torch.device, bf16: bool | None = None) -> torch.autocast:
    """bf16 in this block, where the processor can, or as ``bf16`` says."""
    enabled = multiplies_bf16(device) if bf16 is None else bf16
    return torch.autocast(device.type, torch.bfloat16, enabled=enabled)
